-- Dead letters as things to be mended: other bytes for one, and letters brought back from outside.
local amending = {}

local most_letters, most_text = 100, 65536

-- A stored value with other metadata and data; the message's own options stay.
local function with_body(value, metadata, body)
    local head, text = entries.head(value or '') or {}, ''
    for _, letter in ipairs({ 'p', 'm', 'x', 'r' }) do
        if head[letter] then text = text .. letter .. entries.integer(head[letter]) end
    end
    if metadata > 0 then text = text .. 'n' .. metadata end
    return text .. ';' .. body
end

-- psmq_v1_amend: gives a dead letter another body, notes that in its history, and may redrive it in the same step.
-- argv: clock, revision, client, number, nonce, id, metadata bytes in front of the data, body,
--   record for the history or '', redrive ('1': ready at once, count anew; '': it stays dead)
-- returns 1; MESSAGE_NOT_FOUND when it is not dead, MESSAGE_TOO_LARGE, and nothing was done
function amending.amend(ks, argv)
    local call, refusal = calls.begin(ks, argv)
    if not call then return refusal end
    local id, body, record = argv[6], argv[8], argv[9]
    local metadata = errors.integer(argv[7], 0, 536870912)
    if #argv ~= 10 or not metadata or metadata > #body or #record > most_text
        or (argv[10] ~= '' and argv[10] ~= '1') then
        return errors.refuse('INVALID_OPTION', 'arguments cannot be read')
    end
    if #body > call.queue.max_size then
        return errors.refuse('MESSAGE_TOO_LARGE', string.format('%d %.0f', #body, call.queue.max_size))
    end
    if call.answered then
        return 1
    end
    local k = call.k
    if not redis.call('ZSCORE', k.dead, id) then
        return errors.refuse('MESSAGE_NOT_FOUND', string.sub(id, 1, 40) .. ' dead')
    end
    redis.call('HDEL', k.departing, id)
    redis.call('HSET', k.messages, id, with_body(redis.call('HGET', k.messages, id), metadata, body))
    dead.note(call, id, record)
    events.note(call, 'amended', id)
    local fields = {}
    if #body > (call.queue.largest or 0) then
        fields = { 'largest', entries.integer(#body) }
    end
    if argv[10] == '1' then
        redis.call('UNLINK', redriving.again(call, id, redis.call('HGET', k.state, id), false))
        calls.count(call, 'redriven', 1)
    end
    calls.finish(call, '1', fields)
    if argv[10] == '1' then
        calls.arm(call)
    end
    return 1
end

-- argv from `first` on, six for each letter: id, buried ms, retrieval_count, value, reason, history
-- returns letters, size of the largest | nil, refusal
local function read(call, argv, first)
    local letters, largest = {}, 0
    for index = first, #argv, 6 do
        local letter = {
            id = argv[index], buried = errors.integer(argv[index + 1], 0, 2 ^ 42),
            count = errors.integer(argv[index + 2], 0, 1000000), value = argv[index + 3],
            reason = argv[index + 4], history = argv[index + 5],
        }
        local head, stop = entries.head(letter.value)
        if not string.find(letter.id, '^[0-9a-hjkmnp-tv-z]+$') or #letter.id ~= 22 or not head
            or not letter.buried or not letter.count or #letter.history > dead.longest_history
            or #letter.reason > most_text then
            return nil, errors.refuse('INVALID_OPTION', 'a letter cannot be read')
        end
        local size = #letter.value - stop
        if (head.n or 0) > size then
            return nil, errors.refuse('INVALID_OPTION', 'metadata is longer than the message')
        end
        if size > call.queue.max_size then
            return nil, errors.refuse('MESSAGE_TOO_LARGE', string.format('%d %.0f', size, call.queue.max_size))
        end
        letter.head, largest = head, math.max(largest, size)
        letters[#letters + 1] = letter
    end
    return letters, largest
end

-- psmq_v1_adopt: stores 1 to 100 dead letters as they were elsewhere or earlier; one whose id the queue has, in
-- whatever state, stays as it is.
-- argv: clock, revision, client, number, nonce, then for each letter
--   id, buried ms, retrieval_count, stored value, reason, history (netstrings)
-- returns the number stored; INVALID_OPTION, MESSAGE_TOO_LARGE, and nothing was done
function amending.adopt(ks, argv)
    local call, refusal = calls.begin(ks, argv)
    if not call then return refusal end
    local count = (#argv - 5) / 6
    if count < 1 or count > most_letters or count % 1 ~= 0 then
        return errors.refuse('INVALID_OPTION', 'letters must be 1 to 100')
    end
    local letters, largest = read(call, argv, 6)
    if not letters then return largest end
    if call.answered then
        return tonumber(call.answered)
    end
    local k, writes, stored, seen = call.k, call.writes, 0, {}
    for _, letter in ipairs(letters) do
        local id, head = letter.id, letter.head
        if not seen[id] and redis.call('HEXISTS', k.messages, id) == 0 and not redis.call('ZSCORE', k.dead, id) then
            local entry = entries.fresh(head, entries.place(head.p or 0, letter.buried))
            entry.count = letter.count
            batch.put(writes, 'ZADD', k.dead, letter.buried, id)
            batch.put(writes, 'HSET', k.messages, id, letter.value)
            batch.put(writes, 'HSET', k.state, id, entries.text(entry))
            batch.put(writes, 'HSET', k.reasons, id, string.sub(letter.reason, 1, 1000))
            if letter.history ~= '' then
                batch.put(writes, 'HSET', k.failures, id, letter.history)
            end
            events.note(call, 'adopted', id)
            stored = stored + 1
        end
        seen[id] = true
    end
    local fields = {}
    if stored > 0 then
        calls.count(call, 'imported', stored)
    end
    if stored > 0 and largest > (call.queue.largest or 0) then
        fields = { 'largest', entries.integer(largest) }
    end
    calls.finish(call, entries.integer(stored), fields)
    return stored
end
