-- The way out: exchange (settle what is finished, get what is next), pop, extend, and taking back what a client
-- that has gone still holds.
local messages = {}

local most_messages = 1000
local modes = { plain = true, worker = true, solo = true }

-- One message of a reply, behind `size` parts: id, retrieval_count, first delivery in ms, compact options, stored value.
local function show(reply, size, id, count, first, options, value)
    reply[size + 1] = id
    reply[size + 2] = count
    reply[size + 3] = first
    reply[size + 4] = options
    reply[size + 5] = value
end

-- The reply to a repeat: the words of then, the messages whose receipt is still the one given then.
local function answer_again(call, reply)
    local words, receipt, given = string.match(call.answered, '^x;([^;]*);([^;]*);(.*)$')
    for word in string.gmatch(words or '', '%a+') do
        reply[1][#reply[1] + 1] = word
    end
    reply[5] = receipt or ''
    local ids = {}
    for id in string.gmatch(given or '', '%S+') do
        ids[#ids + 1] = id
    end
    local states, values = batch.fetch(call.k.state, ids), batch.fetch(call.k.messages, ids)
    for index, id in ipairs(ids) do
        local entry = states[index] and entries.parse(states[index])
        if entry and entry.receipt == receipt and values[index] then
            local first = entries.integer(entry.first)
            show(reply, #reply, id, entry.count, first, entries.options(entry), values[index])
        end
    end
    return reply
end

-- Gives each taken message its lease. received counts deliveries, so a receipt is unique: the count after this call
-- and the nonce, which no failover repeats.
local function lease(call, taken, ends, worker, reply)
    local k, ids, leases, states = call.k, {}, {}, {}
    local received = call.queue.received + #taken
    local receipt = entries.integer(received) .. '-' .. call.nonce
    local now, until_then = call.now_text, entries.integer(ends)
    -- State entries as entries.text() spells them. Numbers are the dearest part of that, and most are at hand as text.
    local of_new = receipt .. ' 1 ' .. now .. ' '
    local suffix = worker and 'w1' or ''
    reply[5] = receipt
    for index, entry in ipairs(taken) do
        local id, count, first, options, text = entry.id, 1, now, nil, nil
        if entry.options then
            options = entry.options .. suffix
            text = of_new .. entry.place_text .. ' ' .. options
        else
            count = entry.count + 1
            if entry.first > 0 then
                first = entries.integer(entry.first)
                -- how much later than the first delivery this one is
                entry.g = call.now > entry.first and call.now - entry.first or nil
            end
            entry.w = worker
            options = entries.options(entry)
            text = string.format('%s %d %s %s %s', receipt, count, first, entry.place_text, options)
        end
        leases[index * 2 - 1], leases[index * 2] = until_then, id
        states[index * 2 - 1], states[index * 2] = id, text
        show(reply, index * 5, id, count, first, options, entry.value)
        ids[index] = id
        if call.log then
            events.note(call, 'delivered', id, count)
        end
    end
    batch.put_many('ZADD', k.leased, leases)
    batch.put_many('HSET', k.state, states)
    rollups.delivered(call, taken)
    return receipt, ids
end

-- psmq_v1_exchange: settles a list of messages and gets up to `limit` new ones.
-- argv: clock, revision, client, number, nonce, limit (0 … 1000), visibility timeout in ms or '',
--   mode (plain | worker: holders extend leases, suspects are left | solo: one suspect), then settlements of six parts
--   (see settling.read)
-- returns { a word for each settlement (see settling.settle), wait in ms or -1, more (1: ask again at once), suspects waiting, receipt, then five parts for each
--   message: id, retrieval_count, first ms, options, value }
function messages.exchange(ks, argv)
    local call, refusal = calls.begin(ks, argv)
    if not call then return refusal end
    local limit = errors.integer(argv[6], 0, most_messages)
    local timeout, mode = argv[7], argv[8]
    if not limit then
        return errors.refuse('INVALID_OPTION', 'limit must be between 0 and 1000')
    end
    if timeout == '' then
        timeout = call.queue.visibility_timeout
    else
        timeout = errors.integer(timeout, 1, errors.longest)
    end
    if not timeout then
        return errors.refuse('INVALID_OPTION', 'visibility_timeout must be between 1 ms and ten years')
    end
    if not modes[mode] then
        return errors.refuse('INVALID_OPTION', 'mode must be plain, worker or solo')
    end
    local items, bad = settling.read(argv, 9)
    if not items then return bad end
    local k, reply = call.k, { {}, -1, 0, 0, '' }
    if call.answered then
        reply[2] = limit > 0 and moving.wait(call) or -1
        return answer_again(call, reply)
    end
    if #items > 0 then
        reply[1] = settling.settle(call, items)
    end
    local taken, ids, fields, left = {}, {}, {}, false
    if limit > 0 and not call.queue.paused then
        local more = moving.promote(call)
        call.writes = batch.flush(call.writes)
        local cut
        taken, cut, left = moving.take(call, mode == 'solo' and 1 or limit, mode)
        if #taken > 0 then
            local receipt
            receipt, ids = lease(call, taken, call.now + timeout, mode ~= 'plain' and 1 or nil, reply)
            fields = { 'received', entries.integer(call.queue.received + #taken) }
        end
        if #taken < limit and mode ~= 'solo' then
            reply[3] = (more or cut) and 1 or 0
        end
        if #taken == 0 then
            reply[2] = moving.wait(call)
            calls.tokens(call)
        end
        if mode ~= 'plain' then
            reply[4] = redis.call('ZCARD', k.suspects)
            left = left or reply[4] > 0 or (mode == 'solo' and redis.call('ZCARD', k.ready) > 0)
        end
    end
    calls.finish(call, 'x;' .. table.concat(reply[1], ',') .. ';' .. reply[5] .. ';' .. table.concat(ids, ' '),
        fields, limit > 0)
    -- Whoever got some and leaves some wakes the next; a lease shorter than the longest wait must be looked after.
    local short = #taken > 0 and timeout <= calls.longest_wait
    if call.armed or short or reply[3] == 1 or (#taken > 0 and left) then
        calls.arm(call)
    end
    return reply
end

-- psmq_v1_pop: takes the next message and deletes it: whoever loses the reply asks again with the same number.
-- argv: clock, revision, client, number, nonce
-- returns {} or { id, retrieval_count, first ms, options, value }, or { 'more' }: ask again at once
function messages.pop(ks, argv)
    local call, refusal = calls.begin(ks, argv)
    if not call then return refusal end
    local reply = {}
    if call.answered then
        local id, count, first, options, value = string.match(call.answered, '^p;(%S+) (%d+) (%d+) (%w*);(.*)$')
        if id then
            show(reply, 0, id, tonumber(count), first, options, value)
        elseif call.answered == 'more' then
            reply[1] = 'more'
        end
        return reply
    end
    local k, answer, fields = call.k, 'p;', nil
    local entry, more, cut, left
    if not call.queue.paused then
        more = moving.promote(call)
        call.writes = batch.flush(call.writes)
        local taken
        taken, cut, left = moving.take(call, 1, 'plain')
        entry = taken[1]
    end
    if not entry and (more or cut) then
        reply[1], answer = 'more', 'more'
    elseif entry then
        local id = entry.id
        entry.count = entry.count + 1
        if entry.first == 0 then entry.first = call.now end
        for _, key in ipairs({ k.messages, k.state, k.failures }) do
            batch.drop(call.writes, 'HDEL', key, id)
        end
        local options = entries.options(entry)
        show(reply, 0, id, entry.count, entries.integer(entry.first), options, entry.value)
        answer = string.format('p;%s %d %.0f %s;', id, entry.count, entry.first, options) .. entry.value
        calls.count(call, 'popped', 1)
        events.note(call, 'popped', id, entry.count)
        rollups.delivered(call, { entry })
        fields = { 'received', entries.integer(call.queue.received + 1) }
    end
    calls.finish(call, answer, fields, true)
    if entry and left then
        calls.arm(call)
    end
    return reply
end

-- psmq_v1_extend: moves the ends of leases to now + timeout; a lease that ended and was not passed on is taken up again.
-- Doing it twice is doing it once, so it has no number.
-- argv: clock, revision, timeout in ms, then id, receipt for each (at most 1000)
-- returns a word for each: done | stale
function messages.extend(ks, argv)
    local call, refusal = calls.open(ks, argv)
    if not call then return refusal end
    local timeout = errors.integer(argv[3], 1, errors.longest)
    if not timeout then
        return errors.refuse('INVALID_OPTION', 'timeout must be between 1 ms and ten years')
    end
    local ids, receipts, k = {}, {}, call.k
    for index = 4, #argv, 2 do
        ids[#ids + 1], receipts[#receipts + 1] = argv[index], argv[index + 1]
    end
    if #ids < 1 or #ids ~= #receipts or #ids > most_messages then
        return errors.refuse('INVALID_OPTION', 'leases must be 1 to 1000 pairs')
    end
    local states = batch.fetch(k.state, ids)
    local leased, buried = redis.call('ZMSCORE', k.leased, unpack(ids)), redis.call('ZMSCORE', k.dead, unpack(ids))
    local words = {}
    for index, id in ipairs(ids) do
        local state, receipt = states[index], receipts[index]
        if not state or buried[index] or not entries.is_of(state, receipt) then
            words[index] = 'stale'
        else
            words[index] = 'done'
            batch.put(call.writes, 'ZADD', k.leased, call.now + timeout, id)
            events.note(call, 'extended', id, argv[3])
            if not leased[index] then
                batch.drop(call.writes, 'ZREM', k.ready, id)
                batch.drop(call.writes, 'ZREM', k.suspects, id)
                batch.drop(call.writes, 'ZREM', k.expiring, id)
            end
        end
    end
    calls.close(call)
    if timeout <= calls.longest_wait then
        calls.arm(call)
    end
    return words
end

-- psmq_v1_abandon: ends a client: what its last get still holds unstarted goes back, uncounted, and any command of it
-- that is still under way is refused. For a process that died or an interrupted call; doing it twice is doing it once.
-- argv: clock, revision, client, number of a command ('': the client has gone; else only that command is ended, and the
--   client lives on: what that one gave goes back, and should it still be under way it is refused as a clash), then the
--   ids that were started
-- returns the number handed back
function messages.abandon(ks, argv)
    local call, refusal = calls.open(ks, argv)
    if not call then return refusal end
    local client, number, k, started = argv[3], argv[4], call.k, {}
    if not client or #client < 8 or #client > 40 or not number
        or (number ~= '' and not errors.integer(number, 1, 2 ^ 53 - 1)) then
        return errors.refuse('INVALID_OPTION', 'client or number is malformed')
    end
    for index = 5, #argv do
        started[argv[index]] = true
    end
    local known = redis.call('HGET', k.clients, client) or ''
    local last, receipt, given = string.match(known, '^(%d+) %w+ %d+ %d+ x;[^;]*;([^;]+);(.*)$')
    if number ~= '' and last ~= number then
        -- It never arrived, or is long answered: what another get gave is in somebody's hands.
        given = nil
    end
    local items = {}
    for id in string.gmatch(given or '', '%S+') do
        if not started[id] then
            items[#items + 1] = {
                id = id, receipt = receipt, verb = 'r', options = { u = 1 }, reason = '', failure = '', result = '',
            }
        end
    end
    local back = 0
    if #items > 0 then
        for _, word in ipairs(settling.settle(call, items)) do
            back = back + (word == 'done' and 1 or 0)
        end
    end
    calls.close(call)
    if number == '' then
        redis.call('HSET', k.clients, client, 'gone')
        redis.call('ZADD', k.recent, call.now, client)
        redis.call('ZREM', k.consumers, client)
    elseif string.sub(known, 1, 4) ~= 'gone' then
        calls.end_command(call, client, number, known)
    end
    calls.arm(call)
    return back
end
