-- What is done by hand to messages that wait for their time. They are named by id alone: nobody holds them, so there
-- is no receipt that could be stale.
local delays = {}

-- argv from `first` on: 1 to 1000 ids of delayed messages
-- returns distinct ids, their state entries, nil | nil, nil, refusal; MESSAGE_NOT_FOUND for one that does not wait
local function read(call, argv, first)
    if #argv < first or #argv >= first + 1000 then
        return nil, nil, errors.refuse('INVALID_OPTION', 'ids must be 1 to 1000')
    end
    local ids, seen = {}, {}
    for index = first, #argv do
        local id = argv[index]
        if not seen[id] then
            seen[id] = true
            ids[#ids + 1] = id
        end
    end
    for index, due in ipairs(redis.call('ZMSCORE', call.k.delayed, unpack(ids))) do
        if not due then
            return nil, nil, errors.refuse('MESSAGE_NOT_FOUND', string.sub(ids[index], 1, 40) .. ' waiting')
        end
    end
    local found = {}
    for index, state in ipairs(batch.fetch(call.k.state, ids)) do
        local entry = state and entries.parse(state)
        if not entry then
            -- A delayed push that was never delivered has none; a damaged one is set aside by the next get.
            local head = entries.head(redis.call('HGET', call.k.messages, ids[index]) or '') or {}
            entry = entries.fresh(head, entries.place(head.p or 0, call.now))
        end
        found[index] = entry
    end
    return ids, found
end

-- psmq_v1_hasten: delayed messages become ready now; no delivery is counted.
-- argv: clock, revision, client, number, nonce, id…
-- returns the number made ready; MESSAGE_NOT_FOUND for an id that is not delayed, and nothing was done
function delays.hasten(ks, argv)
    local call, refusal = calls.begin(ks, argv)
    if not call then return refusal end
    if call.answered then
        return tonumber(call.answered)
    end
    local ids, found, bad = read(call, argv, 6)
    if not ids then return bad end
    for index, id in ipairs(ids) do
        local entry = found[index]
        entry.place = entries.place(entries.priority(entry.place), call.now)
        batch.drop(call.writes, 'ZREM', call.k.delayed, id)
        moving.make_ready(call, id, entry)
        events.note(call, 'hastened', id)
    end
    calls.finish(call, entries.integer(#ids))
    calls.arm(call)
    return #ids
end

-- psmq_v1_bury_waiting: delayed messages become dead letters.
-- argv: clock, revision, client, number, nonce, reason, id…
-- returns the number buried; MESSAGE_NOT_FOUND for an id that is not delayed, and nothing was done
function delays.bury(ks, argv)
    local call, refusal = calls.begin(ks, argv)
    if not call then return refusal end
    local reason = argv[6]
    if not reason or reason == '' or #reason > 65536 then
        return errors.refuse('INVALID_OPTION', 'reason must say why, in at most 64 KiB')
    end
    if call.answered then
        return tonumber(call.answered)
    end
    local ids, found, bad = read(call, argv, 7)
    if not ids then return bad end
    for index, id in ipairs(ids) do
        batch.drop(call.writes, 'ZREM', call.k.delayed, id)
        batch.drop(call.writes, 'ZREM', call.k.expiring, id)
        dead.bury(call, id, found[index], { reason = reason, code = 'buried' })
    end
    calls.finish(call, entries.integer(#ids))
    return #ids
end
