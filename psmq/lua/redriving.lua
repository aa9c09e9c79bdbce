-- Back into circulation.
local redriving = {}

local function unfit(call, ids)
    local buried = redis.call('ZMSCORE', call.k.dead, unpack(ids))
    for index, id in ipairs(ids) do
        if not buried[index] then
            return id, 'dead'
        end
        if redis.call('HEXISTS', call.k.messages, id) == 0 then
            return id, 'readable'
        end
    end
end

-- What keeps one of these ids from being sent back: an id and what it is not; nil when nothing does.
function redriving.obstacle(call, ids)
    if unfit(call, ids) then
        -- Reads show as dead what the next get would bury.
        moving.catch_up(call)
        return unfit(call, ids)
    end
end

-- Makes one dead letter ready, with its history, without its expiry. The caller counts it, flushes and arms.
-- returns the key of its result, which the caller removes
function redriving.again(call, id, state, keep_count)
    local writes, k = call.writes, call.k
    local entry = entries.parse(state or '') or { count = 0, place = 0, first = 0 }
    if entry.count == 0 and entry.place == 0 then
        local head = entries.head(redis.call('HGET', k.messages, id)) or {}
        entry = entries.fresh(head, entries.place(head.p or 0, 0))
    end
    local place = entries.place(entries.priority(entry.place), call.now)
    local again = { receipt = '-', count = 0, first = 0, place = place, m = entry.m, r = entry.r }
    if keep_count then
        again.count, again.first, again.o = entry.count, entry.first, entry.count + 1
    end
    batch.drop(writes, 'ZREM', k.dead, id)
    batch.drop(writes, 'HDEL', k.reasons, id)
    batch.drop(writes, 'HDEL', k.departing, id)
    batch.put(writes, 'ZADD', k.ready, place, id)
    batch.put(writes, 'HSET', k.state, id, entries.text(again))
    events.note(call, 'redriven', id)
    return keys.result(k.base, id)
end

-- psmq_v1_redrive: dead letters become ready again, with their history, without their expiry.
-- argv: clock, revision, client, number, nonce, keep_count ('1': one more delivery; '': the count starts anew), id…
-- returns the number redriven; MESSAGE_NOT_FOUND for an id that is not dead, and nothing was done
function redriving.redrive(ks, argv)
    local call, refusal = calls.begin(ks, argv)
    if not call then return refusal end
    local keep_count = argv[6] == '1'
    if #argv < 7 or #argv > 1006 then
        return errors.refuse('INVALID_OPTION', 'ids must be 1 to 1000')
    end
    if call.answered then
        return tonumber(call.answered)
    end
    local ids = { unpack(argv, 7) }
    local id, what = redriving.obstacle(call, ids)
    if id then
        calls.close(call)
        return errors.refuse('MESSAGE_NOT_FOUND', string.sub(id, 1, 40) .. ' ' .. what)
    end
    local chosen, count = {}, 0
    for index, state in ipairs(batch.fetch(call.k.state, ids)) do
        if not chosen[ids[index]] then
            chosen[ids[index]] = state or ''
            count = count + 1
        end
    end
    local results = {}
    for id, state in pairs(chosen) do
        results[#results + 1] = redriving.again(call, id, state, keep_count)
    end
    redis.call('UNLINK', unpack(results))
    calls.count(call, 'redriven', count)
    calls.finish(call, entries.integer(count))
    calls.arm(call)
    return count
end
