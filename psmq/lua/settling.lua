-- What holders do with their messages: delete, release, bury; checked against the receipt here, where nothing can
-- come in between.
local settling = {}

local most_items, most_text = 1000, 16777216
-- from the 21st uncounted return in a row they count: a message must not circle for ever. What no worker can read
-- is bounded by time instead (its holder buries it a day after `unknown` was first said).
local most_uncounted = 20
-- ms: from the second crash in a row a message comes back later and later
local longest_crash_delay = 60000

-- argv from `first` on, six for each settlement: id, receipt, verb + options, reason, failure, result
--   verb d delete, D delete all whose ids stand in the place of one, with spaces between, r release (d delay,
--   u uncounted, m max_retrievals, c crashed, k unknown), b bury
-- returns { { id, receipt, verb, options, reason, failure, result } | { ids, receipt }, … } | nil, refusal
function settling.read(argv, first)
    local items, parts, count = {}, #argv - first + 1, 0
    if parts % 6 ~= 0 or parts > most_items * 6 then
        return nil, errors.refuse('INVALID_OPTION', 'settlements must be at most 1000, of six parts each')
    end
    for index = first, #argv, 6 do
        if argv[index + 2] == 'D' then
            local ids = {}
            for id in string.gmatch(argv[index], '[^ ]+') do
                ids[#ids + 1] = id
            end
            count = count + #ids
            items[#items + 1] = { ids = ids, receipt = argv[index + 1] }
        else
            local item = {
                id = argv[index], receipt = argv[index + 1], verb = string.sub(argv[index + 2], 1, 1),
                reason = argv[index + 3], failure = argv[index + 4], result = argv[index + 5],
            }
            local options = string.sub(argv[index + 2], 2)
            if item.verb == 'r' then
                local parsed, refusal = errors.options(options, 'dumck')
                if not parsed then return nil, refusal end
                item.options = parsed
            elseif (item.verb ~= 'd' and item.verb ~= 'b') or options ~= '' then
                return nil, errors.refuse('INVALID_OPTION', 'settlement must be delete, release or bury')
            end
            if #item.reason > 65536 or #item.failure > 65536 or #item.result > most_text then
                return nil, errors.refuse('INVALID_OPTION', 'reason, failure or result is too long')
            end
            count = count + 1
            items[#items + 1] = item
        end
    end
    if count > most_items then
        return nil, errors.refuse('INVALID_OPTION', 'settlements must be at most 1000')
    end
    return items
end

-- Deletes what may be deleted: the latest receipt, wherever the message is by now.
local function delete(call, ids)
    local k, writes = call.k, call.writes
    local have_failed = redis.call('EXISTS', k.failures) == 1
    for _, id in ipairs(ids) do
        batch.drop(writes, 'HDEL', k.messages, id)
        batch.drop(writes, 'HDEL', k.state, id)
        if have_failed then
            batch.drop(writes, 'HDEL', k.failures, id)
        end
    end
    if redis.call('ZREM', k.leased, unpack(ids)) < #ids then
        -- A lease had ended: the message is back among the ready, or dead by its count.
        for _, id in ipairs(ids) do
            batch.drop(writes, 'ZREM', k.ready, id)
            batch.drop(writes, 'ZREM', k.suspects, id)
            batch.drop(writes, 'ZREM', k.dead, id)
            batch.drop(writes, 'ZREM', k.expiring, id)
            batch.drop(writes, 'HDEL', k.reasons, id)
        end
    end
    calls.count(call, 'deleted', #ids)
end

local function release(call, item, entry)
    local k, options = call.k, item.options
    local uncounted = options.u == 1 and (options.k == 1 or (entry.u or 0) < most_uncounted)
    local delay = options.d or 0
    entry.receipt, entry.w = '-', nil
    calls.count(call, 'released', 1)
    if uncounted then
        entry.u = (entry.u or 0) + 1
        entry.count = math.max(0, entry.count - 1)
        if entry.count == 0 then entry.first = 0 end
        if options.k == 1 then entry.k = entry.k or call.now end
        calls.count(call, 'uncounted', 1)
    else
        entry.u, entry.k = nil, nil
        entry.o = options.m or entry.o
        entry.c = options.c == 1 and (entry.c or 0) + 1 or nil
        local limit = entries.limit(entry, call.queue)
        if entry.count >= limit then
            local reason = item.reason
            if reason == '' then
                reason = string.format('given back at delivery %d of %d', entry.count, limit)
            end
            local code = options.c == 1 and 'lost' or 'buried'
            dead.bury(call, item.id, entry, { reason = reason, code = code, result = item.result })
            return 'dead'
        end
        if (entry.c or 0) > 1 then
            -- The microseconds of now are jitter enough.
            local longest = math.min(1000 * 2 ^ entry.c, longest_crash_delay)
            delay = math.max(delay, math.floor(longest * (0.5 + call.micros % 1000 / 2000)))
        end
    end
    if delay > 0 then
        batch.put(call.writes, 'ZADD', k.delayed, call.now + delay, item.id)
        if entry.x then
            batch.put(call.writes, 'ZADD', k.expiring, entry.x, item.id)
        end
    else
        -- Handed back unstarted it keeps its place; what failed queues behind what is ready.
        if not uncounted then
            entry.place = entries.place(entries.priority(entry.place), call.now)
        end
        moving.make_ready(call, item.id, entry)
    end
    if delay <= calls.longest_wait then
        call.armed = true
    end
    batch.put(call.writes, 'HSET', k.state, item.id, entries.text(entry))
    return 'done'
end

-- Releases or buries one message whose receipt is the latest. returns its word
local function put_away(call, item, state)
    local k, writes = call.k, call.writes
    local entry = entries.parse(state)
    local leased = redis.call('ZSCORE', k.leased, item.id)
    if not entry or (not leased and redis.call('ZSCORE', k.dead, item.id)) then
        return 'stale'
    end
    batch.drop(writes, 'ZREM', leased and k.leased or k.ready, item.id)
    if not leased then
        batch.drop(writes, 'ZREM', k.suspects, item.id)
        batch.drop(writes, 'ZREM', k.expiring, item.id)
    end
    if item.verb == 'b' or item.options.u ~= 1 then
        rollups.ran(call, item.receipt, state)
    end
    dead.note(call, item.id, item.failure)
    if item.verb == 'b' then
        local reason = item.reason ~= '' and item.reason or 'buried by its holder'
        dead.bury(call, item.id, entry, { reason = reason, code = 'buried', result = item.result })
        return 'done'
    end
    return release(call, item, entry)
end

-- Settles a list; each stands for itself: a stale receipt changes nothing for its message, nor for the others.
-- returns a word for each message: done | stale | dead (a release that met the limit)
function settling.settle(call, items)
    local words, ids, seen, deleted = {}, {}, {}, {}
    for _, item in ipairs(items) do
        for _, id in ipairs(item.ids or { item.id }) do
            ids[#ids + 1] = id
        end
    end
    local states, index = batch.fetch(call.k.state, ids), 0
    -- The state of the next message of the list if it is still held with this receipt; its word is set here otherwise.
    local function next_held(id, receipt)
        index = index + 1
        local state = states[index]
        if state and not seen[id] and entries.is_of(state, receipt) then
            return state
        end
        words[index] = 'stale'
    end
    local function delete_next(id, receipt)
        local state = next_held(id, receipt)
        if state then
            seen[id], words[index], deleted[#deleted + 1] = true, 'done', id
            rollups.ran(call, receipt, state)
        end
        return state
    end
    for _, item in ipairs(items) do
        if item.ids then
            for _, id in ipairs(item.ids) do
                delete_next(id, item.receipt)
            end
        elseif item.verb == 'd' then
            local state = delete_next(item.id, item.receipt)
            if state and item.result ~= '' then
                dead.keep_result(call, item.id, entries.parse(state) or {}, item.result)
            end
        else
            local state = next_held(item.id, item.receipt)
            if state then
                words[index] = put_away(call, item, state)
                seen[item.id] = words[index] ~= 'stale' or nil
            end
        end
    end
    if #deleted > 0 then
        delete(call, deleted)
    end
    batch.flush(call.writes)
    call.writes = batch.new()
    return words
end
