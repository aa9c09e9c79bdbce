-- A second count of a queue's books, page by page: every message in one place, every note about one that is there.
local auditing = {}

-- members in a page, and bytes of messages in one
local page, most_bytes = 100, 262144
local places = { 'ready', 'suspects', 'delayed', 'leased', 'dead' }
local counted = { 'sent', 'imported', 'arrived', 'deleted', 'popped', 'expired', 'purged', 'departed',
    'outlived' }
-- letters on their way from or to other queues
local moves = { 'departing', 'departed', 'arriving' }
-- part -> the command that walks it
local walks = {
    messages = 'HSCAN', state = 'HSCAN', reasons = 'HSCAN', failures = 'HSCAN', expiring = 'ZSCAN',
    ready = 'ZSCAN', suspects = 'ZSCAN', delayed = 'ZSCAN', leased = 'ZSCAN', dead = 'ZSCAN', departing = 'HSCAN',
    arriving = 'HSCAN',
}

local function totals(call)
    local reply = { '0', 'messages', redis.call('HLEN', call.k.messages) }
    for _, place in ipairs(places) do
        reply[#reply + 1] = place
        reply[#reply + 1] = redis.call('ZCARD', call.k[place])
    end
    for _, part in ipairs(moves) do
        reply[#reply + 1] = part
        reply[#reply + 1] = redis.call('HLEN', call.k[part])
    end
    for index, count in ipairs(redis.call('HMGET', call.k.base, unpack(counted))) do
        reply[#reply + 1] = counted[index]
        reply[#reply + 1] = tonumber(count) or 0
    end
    return reply
end

-- What is wrong with each of these messages, by where they are and what their bytes and states look like.
local function examine(call, ids, values, reply)
    local found, states = {}, batch.fetch(call.k.state, ids)
    for _, place in ipairs(places) do
        for index, score in ipairs(redis.call('ZMSCORE', call.k[place], unpack(ids))) do
            found[index] = (found[index] or 0) + (score and 1 or 0)
        end
    end
    for index, note in ipairs(redis.call('HMGET', call.k.arriving, unpack(ids))) do
        found[index] = found[index] + (note and 1 or 0)
    end
    for index, id in ipairs(ids) do
        local problem
        if found[index] == 0 then
            problem = 'nowhere'
        elseif found[index] > 1 then
            problem = 'twice'
        elseif not entries.head(values[index]) then
            problem = 'damaged'
        elseif states[index] and not entries.parse(states[index]) then
            problem = 'state'
        end
        if problem then
            reply[#reply + 1] = problem
            reply[#reply + 1] = id
        end
    end
end

-- psmq_v1_audit: one page of the recount.
-- argv: clock, revision, part (totals, or a key of the queue: messages state reasons failures expiring ready suspects
--   delayed leased dead departing arriving), cursor ('0' at first)
-- returns { next cursor ('0' at the end), problem, id … }: nowhere | twice | damaged | state for messages, orphan for
--   what is kept of a message that is not there; for totals { '0', name, number … }
function auditing.audit(ks, argv)
    local call, refusal = calls.open(ks, argv)
    if not call then return refusal end
    local part, cursor = argv[3], argv[4]
    if part == 'totals' then
        return totals(call)
    end
    -- a cursor of the server's is any 64-bit number
    if not walks[part] or not cursor or #cursor > 20 or not string.find(cursor, '^%d+$') then
        return errors.refuse('INVALID_OPTION', 'part or cursor cannot be read')
    end
    local count = page
    if part == 'messages' then
        -- The walk brings the bodies along.
        count = math.max(1, math.min(page, math.floor(most_bytes / math.max(1, call.queue.largest or 0))))
    elseif part == 'failures' then
        count = 20
    end
    local found = redis.call(walks[part], call.k[part], cursor, 'COUNT', count)
    local reply, members = { found[1] }, found[2]
    for start = 1, #members, page * 2 do
        local ids, values = {}, {}
        for index = start, math.min(#members, start + page * 2 - 1), 2 do
            ids[#ids + 1], values[#values + 1] = members[index], members[index + 1]
        end
        if part == 'messages' then
            examine(call, ids, values, reply)
        else
            for _, id in ipairs(ids) do
                if redis.call('HEXISTS', call.k.messages, id) == 0 then
                    reply[#reply + 1] = 'orphan'
                    reply[#reply + 1] = id
                end
            end
        end
    end
    return reply
end
