-- Refusals and the checks that lead to them. A refusal is returned before the first write, never thrown:
-- an error half-way would leave half of an operation behind. The first word is the code that the client maps
-- to a class; text must follow it, or the server puts 'ERR' in front.
local errors = {}

-- ten years: the longest duration, in ms
errors.longest = 315360000000

function errors.refuse(code, detail)
    return redis.error_reply('PSMQ_' .. code .. ' ' .. (detail or '-'))
end

-- tonumber() would take nan, inf, 0x10, 1e400 and ' 5 ': only plain decimal integers in range pass.
-- returns number | nil
function errors.integer(text, least, most)
    if not text or #text > 17 or not string.find(text, '^%-?%d+$') then
        return nil
    end
    local number = tonumber(text)
    if number < least or number > most then
        return nil
    end
    return number
end

-- The ranges of compact options, by their letter; what each call accepts is the letters it passes.
errors.ranges = {
    p = { 'priority', -100, 100 },
    d = { 'delay', 0, errors.longest },
    t = { 'ttl', 1, errors.longest },
    m = { 'max_retrievals', 1, 1000000 },
    r = { 'result_ttl', 0, errors.longest },
    n = { 'metadata', 0, 536870912 },
    u = { 'uncounted', 0, 1 },
    c = { 'crashed', 0, 1 },
    k = { 'unknown', 0, 1 },
    w = { 'worker', 0, 1 },
    s = { 'solo', 0, 1 },
}

-- 'p5d1000' -> { p = 5, d = 1000 }; nil and a refusal when a letter is not among `allowed` or out of range.
function errors.options(text, allowed)
    local found, read = {}, 0
    for letter, digits in string.gmatch(text, '(%l)(%-?%d+)') do
        local range = errors.ranges[letter]
        local value = range and string.find(allowed, letter, 1, true) and errors.integer(digits, range[2], range[3])
        if not value or found[letter] then
            return nil, errors.refuse('INVALID_OPTION', (range and range[1] or letter) .. ' is out of range')
        end
        found[letter] = value
        read = read + 1 + #digits
    end
    if read ~= #text then
        return nil, errors.refuse('INVALID_OPTION', 'options cannot be read')
    end
    return found
end
