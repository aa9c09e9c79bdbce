-- The way in.
local push = {}

local draw = '^[0-9a-hjkmnp-tv-z]+$'
local most_items, most_bytes_of_dedup = 1000, 256

-- The messages that deduplication ids stand for: deduplication id -> id, without those whose window has ended.
local function standing(call, names)
    local found = {}
    for index, stored in ipairs(batch.fetch(call.k.dedup, names)) do
        local id, ends = string.match(stored or '', '^(%S+) (%d+)$')
        if id and tonumber(ends) > call.now then
            found[names[index]] = id
        end
    end
    return found
end

-- Two ended windows are forgotten for each one opened.
-- opened: deduplication id -> id
local function open_windows(call, opened)
    local k, writes, count = call.k, call.writes, 0
    local ends = entries.integer(call.now + call.queue.deduplication_window)
    for name, id in pairs(opened) do
        batch.put(writes, 'HSET', k.dedup, name, id .. ' ' .. ends)
        batch.put(writes, 'ZADD', k.dedup_ends, ends, name)
        count = count + 1
    end
    -- Now, while the writes wait: a window that is opened anew is not among the ended ones afterwards.
    local gone = count > 0 and redis.call('ZRANGEBYSCORE', k.dedup_ends, '-inf', call.now_text, 'LIMIT', '0', 2 * count) or {}
    if #gone > 0 then
        redis.call('ZREM', k.dedup_ends, unpack(gone))
        redis.call('HDEL', k.dedup, unpack(gone))
    end
end

-- What stands in front of a stored value; the common message has no options of its own.
local function head(options, expires)
    local text = ''
    if options.p and options.p ~= 0 then text = 'p' .. options.p end
    if options.m then text = text .. 'm' .. options.m end
    if expires then text = text .. 'x' .. entries.integer(expires) end
    if options.r then text = text .. 'r' .. entries.integer(options.r) end
    if options.n then text = text .. 'n' .. options.n end
    return text
end

-- The options of one message, with the head that its stored value gets unless it expires.
local options_from = memo.of(function(text)
    local options, refusal = errors.options(text, 'pdtmrn')
    if options then
        options.head = head(options) .. ';'
    end
    return options, refusal
end)

-- argv from `first` on, four for each message: random, options, deduplication id, body
-- returns { { random, options, dedup, body }, … }, largest size, deduplication ids | nil, refusal
local function read(call, argv, first)
    local items, largest, names = {}, 0, {}
    for index = first, #argv, 4 do
        local random, text, name, body = argv[index], argv[index + 1], argv[index + 2], argv[index + 3]
        if #random ~= 11 or not string.find(random, draw) then
            return nil, errors.refuse('INVALID_OPTION', 'random must be 11 digits of an id')
        end
        local options, refusal = options_from(text)
        if not options then return nil, refusal end
        if (options.n or 0) > #body then
            return nil, errors.refuse('INVALID_OPTION', 'metadata is longer than the message')
        end
        if #name > most_bytes_of_dedup then
            return nil, errors.refuse('INVALID_OPTION', 'deduplication_id must have at most 256 bytes')
        end
        if #body > call.queue.max_size then
            return nil, errors.refuse('MESSAGE_TOO_LARGE', string.format('%d %.0f', #body, call.queue.max_size))
        end
        largest = math.max(largest, #body)
        if call.queue.deduplication_window == 0 then
            name = '' -- its window has ended before anybody looks
        elseif name ~= '' then
            names[#names + 1] = name
        end
        items[#items + 1] = { random = random, options = options, name = name, body = body }
    end
    return items, largest, names
end

-- How many of the items are no second copies of a message in its deduplication window.
local function unseen(items, stands)
    local names, count = {}, 0
    for _, item in ipairs(items) do
        if item.name == '' or not (names[item.name] or stands[item.name]) then
            names[item.name] = true
            count = count + 1
        end
    end
    return count
end

-- What counts for max_length.
function push.length(k)
    return redis.call('ZCARD', k.ready) + redis.call('ZCARD', k.suspects) + redis.call('ZCARD', k.delayed)
        + redis.call('ZCARD', k.leased) + redis.call('HLEN', k.arriving)
end

-- psmq_v1_push: stores 1 to 1000 messages, all or none.
-- argv: clock, revision, client, number, nonce, then for each message
--   random (11 digits of its id), options (p priority, d delay, t ttl, m max_retrievals, r result_ttl,
--   n metadata bytes in front of the data), deduplication id or '', body
-- returns ids; a deduplication id within its window answers the first message's id and stores nothing
function push.push(ks, argv)
    local call, refusal = calls.begin(ks, argv)
    if not call then return refusal end
    local count = (#argv - 5) / 4
    if count < 1 or count > most_items or count % 1 ~= 0 then
        return errors.refuse('INVALID_OPTION', 'messages must be 1 to 1000')
    end
    if call.answered then
        local ids = {}
        for id in string.gmatch(call.answered, '%S+') do
            ids[#ids + 1] = id
        end
        return ids
    end
    local queue, k, writes = call.queue, call.k, call.writes
    local items, largest, names = read(call, argv, 6)
    if not items then return largest end
    local stands, opened = standing(call, names), {}
    local added = queue.max_length and unseen(items, stands)
    if added and push.length(k) + added > queue.max_length then
        moving.catch_up(call)
        if push.length(k) + added > queue.max_length then
            calls.close(call)
            return errors.refuse('QUEUE_FULL', entries.integer(queue.max_length))
        end
        writes = call.writes
    end
    local micros = math.max(call.micros, (queue.last_id or 0) + 1)
    local ids, sent, soon, now = {}, 0, false, call.now
    local values, ready, now_text = {}, {}, call.now_text
    for index, item in ipairs(items) do
        local options, name = item.options, item.name
        local id = name ~= '' and (stands[name] or opened[name])
        if not id then
            id = entries.time_digits(micros) .. item.random
            micros = micros + 1
            sent = sent + 1
            local ttl, delay, priority = options.t or queue.ttl, options.d or queue.delay, options.p or 0
            local expires = ttl and now + ttl
            values[#values + 1] = id
            values[#values + 1] = (expires and head(options, expires) .. ';' or options.head) .. item.body
            if delay > 0 then
                batch.put(writes, 'ZADD', k.delayed, entries.integer(now + delay), id)
            else
                ready[#ready + 1] = priority == 0 and now_text or entries.integer(entries.place(priority, now))
                ready[#ready + 1] = id
            end
            if call.log then
                local noted = options.n and string.sub(item.body, 1, options.n) or ''
                events.note(call, 'pushed', id, entries.integer(delay) .. ' ' .. noted)
            end
            soon = soon or delay <= calls.longest_wait
            if expires or (delay > 0 and priority ~= 0) then
                -- What the server must know of it before anybody gets it; others have no entry until then.
                local entry = { receipt = '-', count = 0, first = 0, place = entries.place(priority, now + delay) }
                entry.m, entry.x, entry.r = options.m, expires, options.r
                batch.put(writes, 'HSET', k.state, id, entries.text(entry))
            end
            if expires then
                batch.put(writes, 'ZADD', k.expiring, entries.integer(expires), id)
            end
            if name ~= '' then
                opened[name] = id
            end
        end
        ids[index] = id
    end
    if #values > 0 then
        redis.call('HSET', k.messages, unpack(values))
    end
    if #ready > 0 then
        redis.call('ZADD', k.ready, unpack(ready))
    end
    if #names > 0 then
        open_windows(call, opened)
    end
    local fields = { 'last_id', entries.integer(micros - 1) }
    if sent == 0 then fields = {} end
    if largest > (queue.largest or 0) then
        fields[#fields + 1] = 'largest'
        fields[#fields + 1] = entries.integer(largest)
    end
    calls.count(call, 'sent', sent)
    calls.finish(call, table.concat(ids, ' '), fields)
    if soon and sent > 0 then
        calls.arm(call)
    end
    return ids
end
