-- What a queue did, minute by minute for eight hours: counts, and how long messages waited and ran. The minute that
-- runs is a field of the queue hash, which every call reads and writes anyway: counting costs no command of its own.
-- There it is packed, place -> number, which takes a third of the time that text would; the others are text:
-- '<minute> p:<pushed> … w<bucket>:<count> … r<bucket>:<count> …', zeros left out.
local rollups = {}

-- minutes that are kept, each at its number modulo this; ms in one
rollups.kept, rollups.minute = 480, 60000
-- the places of a minute: 0 its number, 1 … 6 by letter (pushed, delivered, done, failed, buried, expired), and behind
-- these the buckets of waiting and of running
local letters = { 'p', 'd', 'k', 'f', 'b', 'x' }
local delivered, failed, waited, ran = 2, 4, 100, 200
local counted = { sent = 1, deleted = 3, popped = 3, released = failed, buried = 5, expired = 6 }
-- the last bucket: two years and longer
local most_buckets = 72

local function add(call, place, by)
    local tally = call.tally
    tally[place] = (tally[place] or 0) + by
end

-- The bucket of a time, and where it begins and ends: bucket 0 is below 1 ms, bucket n from 2^((n-1)/2) to 2^(n/2) ms.
local function bucket(ms)
    if ms < 1 then
        return 0, -math.huge, 1
    end
    local mantissa, exponent = math.frexp(ms)
    local at = 2 * exponent - (mantissa < 0.70710678 and 1 or 0)
    if at >= most_buckets then
        return most_buckets, 2 ^ ((most_buckets - 1) / 2), math.huge
    end
    return at, 2 ^ ((at - 1) / 2), 2 ^ (at / 2)
end

-- Deliveries: each waited since it became ready, which its place tells. Neighbours waited for about as long, so most
-- are counted by two comparisons.
-- taken: entries
function rollups.delivered(call, taken)
    local now, step, count = call.now, entries.step, 0
    local at, from, to = 0, 0, 0
    for index = 1, #taken do
        local ms = now - taken[index].place % step
        if ms < from or ms >= to then
            if count > 0 then add(call, waited + at, count) end
            at, from, to = bucket(ms)
            count = 0
        end
        count = count + 1
    end
    if count > 0 then
        add(call, waited + at, count)
        add(call, delivered, #taken)
    end
end

-- The end of `count` deliveries: they ran since they were delivered. What was delivered once was so when it was first; for others g
-- tells how much later. One receipt is one moment, so a batch is looked at once.
function rollups.ran(call, receipt, state, count)
    if receipt ~= call.ran_receipt then
        call.ran_receipt, call.ran_place = receipt, nil
        local first, options = string.match(state, '^%d+ (%d+) %-?%d+ ?(%w*)$', #receipt + 2)
        if first and first ~= '0' then
            call.ran_place = ran + bucket(call.now - first - (string.match(options, 'g(%d+)') or 0))
        end
    end
    if call.ran_place then
        add(call, call.ran_place, count)
    end
end

-- A lease that ended counts as a return does.
function rollups.lost(call)
    add(call, failed, 1)
end

local function text_of(minute)
    local words = { entries.integer(minute[0]) }
    for place, count in pairs(minute) do
        if place > 0 then
            local name = letters[place] or (place < ran and 'w' .. place - waited) or 'r' .. place - ran
            words[#words + 1] = name .. ':' .. entries.integer(count)
        end
    end
    return table.concat(words, ' ')
end

-- The minute that ran at the last call, nil when there is none or it is damaged.
local function last(call)
    local stored = call.queue.minute
    local fine, minute = pcall(cmsgpack.unpack, stored or '')
    return fine and type(minute) == 'table' and type(minute[0]) == 'number' and minute or nil
end

-- Adds what the call did to the minute that runs; one that is over goes where it is kept.
-- fields: { name, value, … } of the queue hash that the call will write
function rollups.keep(call, fields)
    local tally = call.tally
    for counter, by in pairs(call.counters) do
        local place = counted[counter]
        if place and by > 0 then
            tally[place] = (tally[place] or 0) + by
        end
    end
    if call.counters.uncounted then
        add(call, failed, -call.counters.uncounted)
    end
    if not next(tally) then
        return
    end
    local number, minute = math.floor(call.now / rollups.minute), last(call)
    if minute and minute[0] ~= number then
        redis.call('HSET', call.k.minutes, minute[0] % rollups.kept, text_of(minute))
        minute = nil
    end
    minute = minute or { [0] = number }
    for place, by in pairs(tally) do
        minute[place] = (minute[place] or 0) + by
    end
    fields[#fields + 1] = 'minute'
    fields[#fields + 1] = cmsgpack.pack(minute)
end

-- The texts of the minute that runs and of `wanted` whole ones before it, in no order; none where nothing was done.
function rollups.read(call, wanted)
    local current, slots, texts = math.floor(call.now / rollups.minute), {}, {}
    for minute = current - wanted, current - 1 do
        slots[#slots + 1] = minute % rollups.kept
    end
    local found = batch.fetch(call.k.minutes, slots)
    local running = last(call)
    found[#found + 1] = running and text_of(running)
    for _, text in ipairs(found) do
        local minute = text and tonumber(string.match(text, '^%d+'))
        if minute and minute >= current - wanted and minute <= current then
            texts[#texts + 1] = text
        end
    end
    return texts
end
