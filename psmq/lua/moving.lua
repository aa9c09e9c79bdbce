-- What time does to messages, done by whoever asks next, so that nothing depends on a maintenance process:
-- delayed ones become ready, leases end, ttls end. And the choice of what is delivered.
local moving = {}

-- moves of each kind in one call
moving.budget = 100
local budget_text = moving.budget .. ''
-- bytes in one get; at least one message is given
local most_bytes = 262144

local function due(call, key)
    return redis.call('ZRANGEBYSCORE', key, '-inf', call.now_text, 'LIMIT', '0', budget_text, 'WITHSCORES')
end

local function states_of(call, found)
    local ids = {}
    for index = 1, #found, 2 do
        ids[#ids + 1] = found[index]
    end
    return batch.fetch(call.k.state, ids)
end

-- The zset a ready message waits in: those that a worker died with are kept for a process of their own.
local function ready_key(call, entry)
    return entry.c and call.k.suspects or call.k.ready
end

-- Puts a message among the ready, at its place; its ttl runs again.
function moving.make_ready(call, id, entry)
    batch.put(call.writes, 'ZADD', ready_key(call, entry), entry.place, id)
    if entry.x then
        batch.put(call.writes, 'ZADD', call.k.expiring, entry.x, id)
    end
end

local function end_lease(call, id, ended, state)
    local k, writes = call.k, call.writes
    local entry = state and entries.parse(state)
    if not entry then
        batch.drop(writes, 'ZREM', k.leased, id)
        dead.set_aside(call, id, 'its state cannot be read')
        return
    end
    if entry.w and call.now < call.grace then
        -- Not passed on yet, and no longer due: what lies behind it gets its turn.
        batch.put(writes, 'ZADD', k.leased, call.grace, id)
        return
    end
    batch.drop(writes, 'ZREM', k.leased, id)
    rollups.lost(call)
    entry.u = nil
    local limit = entries.limit(entry, call.queue)
    if entry.count >= limit then
        dead.bury(call, id, entry, { reason = dead.lost(entry, limit), code = 'lost', since = ended, keep_receipt = true })
        return
    end
    if entry.x and entry.x <= call.now then
        dead.expire(call, id, entry)
        return
    end
    if entry.w then
        entry.c = (entry.c or 0) + 1
        entry.w = nil
    end
    entry.place = entries.place(entries.priority(entry.place), ended)
    moving.make_ready(call, id, entry)
    events.note(call, 'ended', id)
    batch.put(writes, 'HSET', k.state, id, entries.text(entry))
end

-- Moves what is due. Writes are gathered, not sent: the caller flushes.
-- returns true when the budget ended before the due ones did
function moving.promote(call)
    local k, writes = call.k, call.writes
    local expired = due(call, k.expiring)
    if #expired > 0 then
        local states = states_of(call, expired)
        for index = 1, #expired, 2 do
            local id = expired[index]
            batch.drop(writes, 'ZREM', k.ready, id)
            batch.drop(writes, 'ZREM', k.suspects, id)
            batch.drop(writes, 'ZREM', k.delayed, id)
            local state = states[(index + 1) / 2]
            dead.expire(call, id, state and entries.parse(state) or { receipt = '-', count = 0, first = 0, place = 0 })
        end
        call.writes = batch.flush(writes)
        writes = call.writes
    end
    local delayed = due(call, k.delayed)
    if #delayed > 0 then
        local states = states_of(call, delayed)
        for index = 1, #delayed, 2 do
            local id, state = delayed[index], states[(index + 1) / 2]
            local entry = state and entries.parse(state)
            batch.drop(writes, 'ZREM', k.delayed, id)
            local priority = entry and entries.priority(entry.place) or 0
            local place = entries.place(priority, tonumber(delayed[index + 1]))
            batch.put(writes, 'ZADD', entry and ready_key(call, entry) or k.ready, place, id)
        end
    end
    local ended = due(call, k.leased)
    if #ended > 0 then
        local states = states_of(call, ended)
        for index = 1, #ended, 2 do
            end_lease(call, ended[index], tonumber(ended[index + 1]), states[(index + 1) / 2])
        end
    end
    if dead.kept_since(call) then
        -- What was buried only now may have died long ago.
        call.writes = batch.flush(call.writes)
        dead.outlive(call)
    end
    local full = moving.budget * 2
    return #expired >= full or #delayed >= full or #ended >= full
end

-- Moves up to a thousand of each kind that is due, and sends the writes.
function moving.catch_up(call)
    for _ = 1, 10 do
        local more = moving.promote(call)
        call.writes = batch.flush(call.writes)
        if not more then
            break
        end
    end
end

-- The first `limit` of ready and suspects together, in their order, with scores: { id, score, … }, and their zsets.
local function both(call, limit)
    local k, last = call.k, entries.integer(limit - 1)
    local ready = redis.call('ZRANGE', k.ready, '0', last, 'WITHSCORES')
    local suspects = redis.call('ZRANGE', k.suspects, '0', last, 'WITHSCORES')
    if #suspects == 0 then
        return ready, k.ready
    end
    local merged, from, r, s = {}, {}, 1, 1
    while #merged < limit * 2 and (ready[r] or suspects[s]) do
        local first = ready[r]
        if first and suspects[s] then
            local left, right = tonumber(ready[r + 1]), tonumber(suspects[s + 1])
            first = left < right or (left == right and ready[r] < suspects[s])
        end
        local source, at = suspects, s
        if first then
            source, at, r = ready, r, r + 2
        else
            s = s + 2
        end
        merged[#merged + 1] = source[at]
        merged[#merged + 1] = source[at + 1]
        from[source[at]] = first and k.ready or k.suspects
    end
    return merged, from
end

-- Takes up to `limit` messages out of the ready, in their order.
-- mode: 'plain' all alike; 'worker' leaves suspects for a process of their own; 'solo' takes one suspect
-- returns entries with their id, value and place_text, and the options of those that were never delivered; more.
--   Damaged and expired ones are set aside on the way and do not count; more is true when they were so many that it
--   gave up; and whether any are left behind those that were taken, in the zsets that were looked at
function moving.take(call, limit, mode)
    local k, taken, bytes = call.k, {}, 0
    local weigh = limit * (call.queue.largest or 0) > most_bytes
    for _ = 1, 4 do
        local wanted = limit - #taken
        if wanted <= 0 then
            return taken, false, true
        end
        local found, from
        if mode == 'plain' then
            found, from = both(call, wanted + 1)
        else
            from = mode == 'solo' and k.suspects or k.ready
            found = redis.call('ZRANGE', from, '0', entries.integer(wanted), 'WITHSCORES')
        end
        local ids, places, count = {}, {}, 0
        local left = #found > wanted * 2
        for index = 1, math.min(#found, wanted * 2), 2 do
            local size = weigh and redis.call('HSTRLEN', k.messages, found[index]) or 0
            bytes = bytes + size
            if weigh and bytes > most_bytes and #taken + count > 0 then
                limit, left = 0, true
                break
            end
            count = count + 1
            ids[count] = found[index]
            places[count] = found[index + 1]
        end
        if count == 0 then
            return taken, false, left
        end
        local values, states = batch.fetch(k.messages, ids), batch.fetch(k.state, ids)
        if type(from) == 'table' then
            for _, id in ipairs(ids) do
                batch.drop(call.writes, 'ZREM', from[id], id)
            end
        else
            redis.call('ZREM', from, unpack(ids))
        end
        for index, id in ipairs(ids) do
            local value, state = values[index], states[index]
            local head = value and entries.head(value)
            local place, entry = tonumber(places[index]), nil
            if state then
                entry = entries.parse(state)
            elseif head then
                entry = entries.fresh(head, place)
            end
            if not entries.is_id(id) then
                dead.set_aside(call, id, 'its id is none of ours')
            elseif not head then
                dead.set_aside(call, id, value and 'its bytes are not a message' or 'its bytes are missing')
            elseif not entry then
                dead.set_aside(call, id, 'its state cannot be read')
            elseif entry.x and entry.x <= call.now then
                dead.expire(call, id, entry)
            else
                entry.id, entry.value, entry.place, entry.place_text = id, value, place, places[index]
                if not entries.is_place(place) then
                    entry.place, entry.place_text = call.now, entries.integer(call.now)
                end
                if entry.x then
                    batch.drop(call.writes, 'ZREM', k.expiring, id)
                end
                taken[#taken + 1] = entry
            end
        end
        call.writes = batch.flush(call.writes)
        if not left or #taken >= limit then
            return taken, false, left
        end
    end
    return taken, #taken < limit, true
end

-- ms until something becomes ready by itself, -1 when nothing will
function moving.wait(call)
    local nearest
    for _, key in ipairs({ call.k.delayed, call.k.leased }) do
        local first = redis.call('ZRANGE', key, '0', '0', 'WITHSCORES')
        if first[2] then
            nearest = math.min(nearest or math.huge, tonumber(first[2]))
        end
    end
    return nearest and math.min(math.max(0, nearest - call.now), errors.longest) or -1
end
