-- The frame of every call: which queue, what time, whether this command was done before, and what must be written
-- back whatever the call does. A command that is sent again has the effect of one.
local calls = {}

-- Revision of this library; a client that is newer replaces it. Raised by every change of these files.
calls.revision = 5
-- Layout of the data; a queue written by a newer one is refused.
calls.layout = 1

-- a client that has been silent so long is forgotten (ms), and how many are remembered at most
local client_memory, most_clients = 1200000, 10000
-- how exactly `recent` and `consumers` are kept (ms): writing them each time would cost as much as the call
local rough = 10000
-- no getter waits longer than this for its token (ms): what becomes ready sooner must wake one
calls.longest_wait = 2000

local names = {
    'layout', 'deleting', 'clock', 'paused', 'on_expiry', 'seen', 'offset', 'grace', 'last_id', 'received', 'largest',
    'minute', 'sent', 'deleted', 'events',
    -- the settings that are numbers: nine
    'visibility_timeout', 'max_retrievals', 'delay', 'ttl', 'max_size', 'max_length', 'deduplication_window',
    'event_log', 'dead_retention',
}

-- What is missing or cannot be read is as the default says.
local function within(text, least, most, default)
    local number = text and tonumber(text)
    -- not a number is neither less nor more
    return number and number >= least and number <= most and number or default
end

-- The settings of a queue from their texts, a comma behind each: the same ones in most calls, so worked out once.
local settings_of = memo.of(function(text)
    local found, longest = {}, errors.longest
    for word in string.gmatch(text, '([^,]*),') do
        found[#found + 1] = word
    end
    if #found ~= 9 then
        found = {} -- one has a comma inside: nobody knows which is which
    end
    local settings = {
        visibility_timeout = within(found[1], 1, longest, 30000), max_retrievals = within(found[2], 1, 1000000, 5),
        delay = within(found[3], 0, longest, 0), ttl = within(found[4], 1, longest),
        max_size = within(found[5], 1, 536870912, 1048576), max_length = within(found[6], 1, 2 ^ 53),
        deduplication_window = within(found[7], 0, longest, 300000), event_log = within(found[8], 1, events.most),
        dead_retention = within(found[9], 1, longest),
    }
    settings.__index = settings
    return settings
end)

-- The fields of the queue hash that calls need. Written out: a table that is made at its size costs a third of one that
-- grows, and this one is made by every call.
local function read(base)
    local found = redis.call('HMGET', base, unpack(names))
    local settings = settings_of((found[16] or '') .. ',' .. (found[17] or '') .. ',' .. (found[18] or '') .. ','
        .. (found[19] or '') .. ',' .. (found[20] or '') .. ',' .. (found[21] or '') .. ','
        .. (found[22] or '') .. ',' .. (found[23] or '') .. ',' .. (found[24] or '') .. ',')
    return setmetatable({
        layout = found[1] or nil, deleting = found[2] or nil, clock = found[3] or nil, paused = found[4] or nil,
        on_expiry = found[5] or nil, seen = within(found[6], 0, 2 ^ 43, 0), offset = within(found[7], 0, 2 ^ 43, 0),
        grace = within(found[8], 0, 2 ^ 43, 0), last_id = within(found[9], 0, 2 ^ 53, 0),
        received = within(found[10], 0, 2 ^ 53, 0), largest = within(found[11], 0, 2 ^ 53, 0),
        minute = found[12] or nil,
        -- the counters that most calls change
        sent = within(found[13], 0, 2 ^ 53, 0), deleted = within(found[14], 0, 2 ^ 53, 0),
        events = within(found[15], 0, 2 ^ 53, 0),
    }, settings)
end

-- For calls without a number: reads, and writes that may be done twice.
-- ks: queue hash, never-key. argv: clock override, client's revision
-- returns call { k, queue, now, now_text, time, micros, writes, counters } | nil, refusal
function calls.open(ks, argv)
    local override, revision = argv[1], errors.integer(argv[2], 0, 1000000)
    if #ks ~= 2 or not revision then
        return nil, errors.refuse('INVALID_OPTION', 'call takes two keys, a clock and a revision')
    end
    if revision > calls.revision then
        return nil, errors.refuse('OLD_LIBRARY', string.format('%d', calls.revision))
    end
    local base = ks[1]
    local queue = read(base)
    if not queue.layout then
        return nil, errors.refuse('QUEUE_NOT_FOUND')
    end
    if queue.deleting then
        return nil, errors.refuse('QUEUE_DELETING')
    end
    if (tonumber(queue.layout) or 0) > calls.layout then
        return nil, errors.refuse('SERVER_UNSUITABLE', 'its data was written by a newer psmq: upgrade this client')
    end
    local now, time, micros, offset = clock.read(override, queue)
    if not now then
        return nil, time
    end
    local seen, grace = queue.seen, queue.grace
    local gap = time - seen
    if seen > 0 and gap > queue.visibility_timeout / 2 + 1000 then
        -- Nobody has called for longer than waiting getters stay silent: the server, or the way to it, was away.
        -- Workers get time to extend what they still run before it is handed out again.
        grace = now + math.floor(math.min(queue.visibility_timeout / 3, 10000))
    end
    return {
        k = keys.of(base), queue = queue, now = now, now_text = entries.integer(now), time = time, micros = micros,
        offset = offset, grace = grace, writes = batch.new(), counters = {}, tally = {}, log = events.open(queue),
    }
end

function calls.count(call, counter, by)
    call.counters[counter] = (call.counters[counter] or 0) + by
end

-- Writes back what every writing call leaves: the clock's state, counters, fields of the queue hash.
-- fields: further { name, value, … } of the queue hash, or nil
function calls.close(call, fields)
    batch.flush(call.writes)
    fields = fields or {}
    events.keep(call)
    rollups.keep(call, fields)
    fields[#fields + 1] = 'seen'
    fields[#fields + 1] = call.time == call.now and call.now_text or entries.integer(call.time)
    if call.offset > 0 then
        fields[#fields + 1] = 'offset'
        fields[#fields + 1] = entries.integer(call.offset)
    end
    if call.grace > call.now then
        fields[#fields + 1] = 'grace'
        fields[#fields + 1] = entries.integer(call.grace)
    end
    local counters = call.counters
    for counter, by in pairs(counters) do
        local known = call.queue[counter]
        if known then
            fields[#fields + 1] = counter
            fields[#fields + 1] = entries.integer(known + by)
            counters[counter] = nil
        end
    end
    redis.call('HSET', call.k.base, unpack(fields))
    for counter, by in pairs(counters) do
        local reply = redis.pcall('HINCRBY', call.k.base, counter, entries.integer(by))
        if type(reply) == 'table' then
            redis.call('HSET', call.k.base, counter, entries.integer(by))
        end
    end
end

-- For numbered commands: as calls.open, then who asks and whether it was answered before.
-- argv: clock, revision, client id, number, nonce (8 … 32 of 0-9a-z)
-- returns call | nil, refusal. call.answered is the remembered answer of a repeat: nothing may be written then.
function calls.begin(ks, argv)
    local client, number, nonce = argv[3], errors.integer(argv[4], 1, 2 ^ 53 - 1), argv[5]
    if not client or #client < 8 or #client > 40 or not number
        or not nonce or not string.find(nonce, '^%w+$') or #nonce < 8 or #nonce > 32 then
        return nil, errors.refuse('INVALID_OPTION', 'client, number or nonce is malformed')
    end
    local call, refusal = calls.open(ks, argv)
    if not call then
        return nil, refusal
    end
    call.client, call.number, call.nonce = client, argv[4], nonce
    local known = redis.call('HGET', call.k.clients, client)
    if known then
        if string.sub(known, 1, 4) == 'gone' then
            return nil, errors.refuse('CLIENT_GONE')
        end
        local last, its_nonce, recent, asked, answer = string.match(known, '^(%d+) (%w+) (%d+) (%d+) ()')
        last = tonumber(last)
        if last then
            if number < last or (number == last and nonce ~= its_nonce) then
                return nil, errors.refuse('COMMAND_CLASH')
            end
            call.recent, call.asked = recent, asked
            if number == last then
                call.answered = string.sub(known, answer)
            end
        end
    end
    return call
end

-- Two clients that fell silent long ago are forgotten for each new one, so their number stays bounded.
local function trim(call)
    local oldest = redis.call('ZRANGE', call.k.recent, 0, 1, 'WITHSCORES')
    local crowded = #oldest > 0 and redis.call('ZCARD', call.k.recent) > most_clients
    for index = 1, #oldest, 2 do
        if crowded or tonumber(oldest[index + 1]) < call.now - client_memory then
            redis.call('ZREM', call.k.recent, oldest[index])
            redis.call('HDEL', call.k.clients, oldest[index])
        end
    end
end

-- Ends a numbered command: writes everything back and remembers the answer for a repeat.
-- asking: the call asked for messages, so its client counts as a consumer
function calls.finish(call, answer, fields, asking)
    calls.close(call, fields)
    if not call.recent then
        trim(call)
    end
    local now, now_text = call.now, call.now_text
    if not call.recent or now - tonumber(call.recent) > rough then
        redis.call('ZADD', call.k.recent, now_text, call.client)
        call.recent = now_text
    end
    if asking and (not call.asked or now - tonumber(call.asked) > rough) then
        redis.call('ZREMRANGEBYSCORE', call.k.consumers, '-inf', now - 600000)
        redis.call('ZADD', call.k.consumers, now_text, call.client)
        call.asked = now_text
    end
    redis.call('HSET', call.k.clients, call.client,
        call.number .. ' ' .. call.nonce .. ' ' .. call.recent .. ' ' .. (call.asked or '0') .. ' ' .. answer)
end

-- Has a command of another client refused should it still come (or come again), as one that clashes with this record;
-- later ones of that client are welcome.
-- known: the client's record, '' for none
function calls.end_command(call, client, number, known)
    local last, _, recent, asked = string.match(known, '^(%d+) (%w+) (%d+) (%d+) ')
    if last and tonumber(last) > tonumber(number) then
        return
    end
    redis.call('HSET', call.k.clients, client, string.format('%s ended %s %s x;;;', number, recent or '0', asked or '0'))
    redis.call('ZADD', call.k.recent, call.now, client)
end

-- The tokens that lie in `wake`. A key of another type there is removed, or it would stop every push, and send
-- waiting getters round in circles.
function calls.tokens(call)
    local length = redis.pcall('LLEN', call.k.wake)
    if type(length) == 'table' then
        redis.call('DEL', call.k.wake)
        return 0
    end
    return length
end

-- Leaves the token that wakes one waiting getter, unless there is one; a paused queue wakes nobody.
-- The only writer of `wake`.
function calls.arm(call)
    if not call.queue.paused and calls.tokens(call) == 0 then
        redis.call('RPUSH', call.k.wake, '1')
    end
end
