-- Out of circulation: burying with reason and history, and results that the server itself must write.
local dead = {}

-- bytes of failure history kept for a message (the newest records), and of a reason
local most_history, most_reason = 65536, 1000
-- the longest there is: one record of so many bytes, with its length and a comma
dead.longest_history = most_history + #'65536:,'
-- dead letters that one call drops because they were kept long enough
local most_outlived = 100
-- ms a result given without a result_ttl of its own is kept
local default_result_ttl = 3600000

-- Stores what result() will answer. Waiters hold BLMOVE on this list: all see it, and it stays until its ttl.
function dead.keep_result(call, id, entry, value)
    local ttl = math.min(entry.r or default_result_ttl, errors.longest)
    if ttl == 0 then
        return
    end
    local key = keys.result(call.k.base, id)
    if redis.call('RPUSH', key, value) > 1 then
        redis.call('LTRIM', key, -1, -1) -- what was there before is not true any more
    end
    redis.call('PEXPIRE', key, ttl)
    batch.put(call.writes, 'ZADD', call.k.results, call.now + ttl, id)
    if not call.results_kept then
        -- Names of expired results are dropped a hundred at a time by the calls that add some.
        call.results_kept = true
        local gone = redis.call('ZRANGEBYSCORE', call.k.results, '-inf', call.now, 'LIMIT', 0, 100)
        if #gone > 0 then
            redis.call('ZREM', call.k.results, unpack(gone))
        end
    end
end

-- The server's own word to whoever waits, where no worker is there to say it: only for messages with a result_ttl.
local function server_result(call, id, entry, code, text)
    if entry.r and entry.r > 0 then
        dead.keep_result(call, id, entry, '!' .. code .. ' ' .. text)
    end
end

-- Appends one failure record to a message's history; the oldest go when it grows past 64 KiB.
function dead.note(call, id, record)
    if record == '' then
        return
    end
    local history = (redis.call('HGET', call.k.failures, id) or '') .. #record .. ':' .. record .. ','
    while #history > most_history do
        local length = tonumber(string.match(history, '^(%d+):'))
        local rest = length and string.sub(history, #tostring(length) + length + 3)
        if not rest or rest == '' then
            break
        end
        history = rest
    end
    redis.call('HSET', call.k.failures, id, history)
end

-- What is said of a message whose lease ended at its last delivery.
function dead.lost(entry, limit)
    return string.format('its lease ended at delivery %d of %d without an answer', entry.count, limit)
end

dead.expired = 'its ttl ended before it was delivered'

-- Buries one message; the caller removes it from the zset it was in.
-- how: reason, code (what result() answers without a result of the worker's own), result, since (ms it died, if not
--   now), keep_receipt (who let the lease end may still report it as done; else the receipt ends)
function dead.bury(call, id, entry, how)
    local writes = call.writes
    if not how.keep_receipt then
        entry.receipt = '-'
    end
    entry.w = nil
    local reason = string.sub(how.reason, 1, most_reason)
    batch.put(writes, 'ZADD', call.k.dead, how.since or call.now, id)
    batch.put(writes, 'HSET', call.k.state, id, entries.text(entry))
    batch.put(writes, 'HSET', call.k.reasons, id, reason)
    calls.count(call, 'buried', 1)
    events.note(call, 'buried', id, reason)
    if how.result and how.result ~= '' then
        dead.keep_result(call, id, entry, how.result)
    else
        server_result(call, id, entry, how.code, reason)
    end
end

-- A message whose ttl has ended: dropped, or buried where the queue says so. The caller removes it from its zset.
function dead.expire(call, id, entry)
    batch.drop(call.writes, 'ZREM', call.k.expiring, id)
    if call.queue.on_expiry == 'bury' then
        dead.bury(call, id, entry, { reason = dead.expired, code = 'expired', since = entry.x })
        return
    end
    batch.drop(call.writes, 'HDEL', call.k.messages, id)
    batch.drop(call.writes, 'HDEL', call.k.state, id)
    batch.drop(call.writes, 'HDEL', call.k.failures, id)
    calls.count(call, 'expired', 1)
    events.note(call, 'expired', id)
    server_result(call, id, entry, 'expired', dead.expired)
end

-- Dead letters that were buried then or earlier are kept no longer; nil where the queue keeps them for ever.
function dead.kept_since(call)
    return call.queue.dead_retention and call.now - call.queue.dead_retention
end

-- Drops up to a hundred of them.
function dead.outlive(call)
    local since, k = dead.kept_since(call), call.k
    local ids = since and redis.call('ZRANGEBYSCORE', k.dead, '-inf', since, 'LIMIT', 0, most_outlived) or {}
    for _, id in ipairs(ids) do
        batch.drop(call.writes, 'ZREM', k.dead, id)
        for _, key in ipairs({ k.messages, k.state, k.failures, k.reasons, k.departing }) do
            batch.drop(call.writes, 'HDEL', key, id)
        end
    end
    if #ids > 0 then
        calls.count(call, 'outlived', #ids)
        events.note(call, 'outlived', ids)
    end
end

-- What cannot be delivered because its bookkeeping is damaged: kept aside with a reason, so that the others go on.
function dead.set_aside(call, id, reason)
    local entry = { receipt = '-', count = 0, first = 0, place = 0 }
    batch.drop(call.writes, 'ZREM', call.k.expiring, id)
    dead.bury(call, id, entry, { reason = reason, code = 'buried' })
end
