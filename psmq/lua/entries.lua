-- What is kept of one message beside its bytes: ids, heads and state entries, as text that stays readable in HGETALL.
local entries = {}

local digits = '0123456789abcdefghjkmnpqrstvwxyz'
local pairs_of_digits = {}

-- place in the ready order: -priority * 2^42 + the ms of becoming ready
entries.step = 4398046511104

-- The first nine of the 11 digits last spelled, and what they stand for: they change once a millisecond.
local upper, upper_digits

-- The 11 sortable digits of a microsecond count.
function entries.time_digits(micros)
    if not pairs_of_digits[1] then
        for value = 0, 1023 do
            local high, low = math.floor(value / 32) + 1, value % 32 + 1
            pairs_of_digits[value + 1] = string.sub(digits, high, high) .. string.sub(digits, low, low)
        end
    end
    local rest = math.floor(micros / 1024)
    if rest ~= upper then
        local left, text = rest, ''
        for _ = 1, 4 do
            local next_left = math.floor(left / 1024)
            text = pairs_of_digits[left - next_left * 1024 + 1] .. text
            left = next_left
        end
        upper, upper_digits = rest, string.sub(digits, left + 1, left + 1) .. text
    end
    return upper_digits .. pairs_of_digits[micros - rest * 1024 + 1]
end

-- Scores that strangers gave may be infinite.
local largest = 9e15
-- '%d' takes a third of the time of '%.0f', but has no more than 32 bits on servers of 32 bits.
local digits_of

-- A number as text. The server spells what it is given as a number itself, which takes twice as long.
function entries.integer(number)
    if number > largest or number < -largest then
        number = number > 0 and largest or -largest
    end
    digits_of = digits_of or (string.format('%d', 2 ^ 40) == '1099511627776' and '%d' or '%.0f')
    return string.format(digits_of, number)
end

function entries.priority(place)
    return -math.floor(place / entries.step)
end

function entries.place(priority, ms)
    return -priority * entries.step + ms
end

local read_head = memo.of(function(text)
    local head = {}
    for letter, number in string.gmatch(text, '(%l)(%-?%d+)') do
        head[letter] = tonumber(number)
    end
    if head.p and (head.p > 100 or head.p < -100) then
        head.p = nil
    end
    head.options = entries.options({ m = head.m, r = head.r })
    return head
end)

-- The options in front of a stored value: { p m x r n, options (as a state entry spells m and r) }, nil when the value
-- is not one of ours. Not to be changed: others are given the same one.
function entries.head(value)
    local stop = string.find(value, ';', 1, true)
    if not stop or stop > 120 then
        return nil
    end
    return read_head(string.sub(value, 1, stop - 1)), stop
end

-- A state entry. Options: m own limit, o limit set later, x expiry, r result ttl, u uncounted returns in a row,
-- c crashes in a row, k since when nobody can read it, g ms from its first delivery to the latest, w held by a worker that extends its leases.
-- nil when the text is not one of ours.
function entries.parse(text)
    local receipt, count, first, place, options = string.match(text, '^(%S+) (%d+) (%d+) (%-?%d+) ?(%w*)$')
    if not receipt or #count > 15 or #first > 13 or #place > 16 then
        return nil
    end
    local entry = { receipt = receipt, count = tonumber(count), first = tonumber(first), place = tonumber(place) }
    if options ~= '' then
        for letter, number in string.gmatch(options, '(%l)(%d+)') do
            entry[letter] = #number <= 15 and tonumber(number) or nil
        end
    end
    return entry
end

function entries.options(entry)
    local text = ''
    if entry.m then text = text .. 'm' .. entries.integer(entry.m) end
    if entry.o then text = text .. 'o' .. entries.integer(entry.o) end
    if entry.x then text = text .. 'x' .. entries.integer(entry.x) end
    if entry.r then text = text .. 'r' .. entries.integer(entry.r) end
    if entry.u then text = text .. 'u' .. entries.integer(entry.u) end
    if entry.c then text = text .. 'c' .. entries.integer(entry.c) end
    if entry.k then text = text .. 'k' .. entries.integer(entry.k) end
    if entry.g then text = text .. 'g' .. entries.integer(entry.g) end
    if entry.w then text = text .. 'w1' end
    return text
end

function entries.text(entry)
    return entry.receipt .. ' ' .. entries.integer(entry.count) .. ' ' .. entries.integer(entry.first) .. ' '
        .. entries.integer(entry.place) .. ' ' .. entries.options(entry)
end

-- Whether a state entry is of the delivery with this receipt; compared in place, as every settlement is.
function entries.is_of(state, receipt)
    return #receipt >= 3 and string.find(state, receipt, 1, true) == 1 and string.byte(state, #receipt + 1) == 32
end

-- Whether it may be an id of ours: strangers may have put anything among them.
function entries.is_id(id)
    return #id == 22 and string.find(id, '^%w+$') == 1
end

-- Whether a score may be a place of ours.
function entries.is_place(score)
    return score > -101 * entries.step and score < 101 * entries.step and score % 1 == 0
end

-- The entry of a message that has none yet, from its head. id, value and place_text are for whoever takes the message:
-- a table that is made with room for them costs less than one that grows.
function entries.fresh(head, place)
    local entry = {
        receipt = '-', count = 0, first = 0, place = place, options = head.options,
        id = false, value = false, place_text = false,
    }
    if head.m then entry.m = head.m end
    if head.r then entry.r = head.r end
    return entry
end

-- deliveries it may have
function entries.limit(entry, queue)
    return entry.o or entry.m or queue.max_retrievals
end
