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
            for id in string.gmatch(argv[index], '%S+') do
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

-- Deletes what may be deleted: the latest receipt, wherever the message is by now. A thousand at most: unpack() takes
-- them all.
local function delete(call, ids)
    local k = call.k
    redis.call('HDEL', k.messages, unpack(ids))
    redis.call('HDEL', k.state, unpack(ids))
    if redis.call('EXISTS', k.failures) == 1 then
        redis.call('HDEL', k.failures, unpack(ids))
    end
    if redis.call('ZREM', k.leased, unpack(ids)) < #ids then
        -- A lease had ended: the message is back among the ready, or dead by its count.
        for _, key in ipairs({ k.ready, k.suspects, k.dead, k.expiring }) do
            redis.call('ZREM', key, unpack(ids))
        end
        redis.call('HDEL', k.reasons, unpack(ids))
        redis.call('HDEL', k.departing, unpack(ids))
    end
    calls.count(call, 'deleted', #ids)
    events.note(call, 'deleted', ids)
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
    if call.log then
        local how = uncounted and 'uncounted' or options.c == 1 and 'lost' or 'counted'
        events.note(call, 'released', item.id, entries.integer(delay) .. ' ' .. how .. ' ' .. item.reason)
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
        rollups.ran(call, item.receipt, state, 1)
    end
    dead.note(call, item.id, item.failure)
    if item.verb == 'b' then
        local reason = item.reason ~= '' and item.reason or 'buried by its holder'
        dead.bury(call, item.id, entry, { reason = reason, code = 'buried', result = item.result })
        return 'done'
    end
    return release(call, item, entry)
end

-- The state entries of all messages of a list, in its order.
local function states_of(call, items)
    if #items == 1 and items[1].ids then
        return batch.fetch(call.k.state, items[1].ids)
    end
    local ids = {}
    for _, item in ipairs(items) do
        for _, id in ipairs(item.ids or { item.id }) do
            ids[#ids + 1] = id
        end
    end
    return batch.fetch(call.k.state, ids)
end

-- Settles a list; each stands for itself: a stale receipt changes nothing for its message, nor for the others.
-- returns a word for each item: done | stale | dead (a release that met the limit); for many ids together done when all
--   are, otherwise a letter for each: d | s
function settling.settle(call, items)
    local words, seen, deleted = {}, {}, {}
    local states, index = states_of(call, items), 0
    -- Of some ids, those held with this receipt will be deleted. returns how many, the state of one, letters
    local function delete_held(ids, receipt)
        local count, letters, state = 0, {}, nil
        local mark, length = receipt .. ' ', #receipt + 1
        for position, id in ipairs(ids) do
            index = index + 1
            local found = states[index]
            if found and not seen[id] and length > 3 and string.sub(found, 1, length) == mark then
                count = count + 1
                seen[id], deleted[#deleted + 1], letters[position], state = true, id, 'd', found
            else
                letters[position] = 's'
            end
        end
        if count > 0 then
            rollups.ran(call, receipt, state, count)
        end
        return count, state, letters
    end
    for position, item in ipairs(items) do
        if item.ids then
            local count, _, letters = delete_held(item.ids, item.receipt)
            words[position] = count == #item.ids and 'done' or table.concat(letters)
        elseif item.verb == 'd' then
            local count, state = delete_held({ item.id }, item.receipt)
            words[position] = count == 1 and 'done' or 'stale'
            if count == 1 and item.result ~= '' then
                dead.keep_result(call, item.id, entries.parse(state) or {}, item.result)
            end
        else
            index = index + 1
            local state, word = states[index], 'stale'
            if state and not seen[item.id] and entries.is_of(state, item.receipt) then
                word = put_away(call, item, state)
                seen[item.id] = word ~= 'stale' or nil
            end
            words[position] = word
        end
    end
    if #deleted > 0 then
        delete(call, deleted)
    end
    call.writes = batch.flush(call.writes)
    return words
end
