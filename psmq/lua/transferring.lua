-- Dead letters that go to another queue. It may be in another slot, so no call sees both, and whoever carries them may
-- die between any two calls. So the target's copy is hidden until the source has given up its own, and the source's
-- word decides:
--
--   depart  source: the letter stays dead, with a mark: the token of this attempt. Whatever else happens to it (redrive,
--           edit, purge, another attempt) takes the mark away.
--   arrive  target: a copy that is stored and that nobody gets, with the token.
--   leave   source: if the mark is still there, the letter goes, and a note says that the attempt counts.
--   admit   target: what left becomes ready, what did not is dropped.
--   forget  source: the note goes.
--
-- Broken off before leave, the letter is dead as before; after it, the note and the copy lead to each other. A copy
-- whose attempt has no note is dropped, once recall has made sure that there will be none.
local transferring = {}

-- letters in a call, and members in a page of a listing
local most, page = 100, 100
local parts = { departing = true, departed = true, arriving = true }

local function is_name(text)
    return text and #text <= 160 and string.find(text, '^[%w._-]+$')
end

-- Tokens are '<number>-<nonce>'; a later attempt has a higher number.
local function number_of(token)
    return tonumber(string.match(token or '', '^(%d+)%-%w+$'))
end

-- What this queue's tokens are higher than: when it was made, in microseconds. Those of a queue that had its name before
-- are not, and it knows nothing of them.
local function born(call)
    return errors.integer(redis.call('HGET', call.k.base, 'born') or '', 0, 2 ^ 53) or 0
end

local function refuse()
    return errors.refuse('INVALID_OPTION', 'arguments cannot be read')
end

-- psmq_v1_depart: marks dead letters for a transfer. An earlier attempt for one of them is over with that.
-- argv: clock, revision, client, number, nonce, target, id… (1 to 100)
-- returns the token; MESSAGE_NOT_FOUND for an id that is not dead, and nothing was done
function transferring.depart(ks, argv)
    local call, refusal = calls.begin(ks, argv)
    if not call then return refusal end
    local target = argv[6]
    if not is_name(target) or #argv < 7 or #argv > 6 + most then
        return refuse()
    end
    if call.answered then
        return call.answered
    end
    local ids = { unpack(argv, 7) }
    local id, what = redriving.obstacle(call, ids)
    if not id then
        -- One that left, and was brought back from a file before that was finished.
        for index, note in ipairs(redis.call('HMGET', call.k.departed, unpack(ids))) do
            if note then id, what = ids[index], 'dead' end
        end
    end
    if id then
        calls.close(call)
        return errors.refuse('MESSAGE_NOT_FOUND', string.sub(id, 1, 40) .. ' ' .. what)
    end
    local number, least = redis.pcall('HINCRBY', call.k.base, 'departures', 1), born(call)
    if type(number) == 'table' or number <= least then
        number = least + 1
        redis.call('HSET', call.k.base, 'departures', entries.integer(number))
    end
    local token = string.format('%.0f-%s', number, call.nonce)
    for _, chosen in ipairs(ids) do
        batch.put(call.writes, 'HSET', call.k.departing, chosen, token .. ' ' .. target)
    end
    calls.finish(call, token)
    return token
end

-- argv from `first` on, five for each letter: id, retrieval_count, first ms, stored value, history
-- returns letters | nil, refusal
local function read(argv, first)
    local letters = {}
    for index = first, #argv, 5 do
        local letter = {
            id = argv[index], count = errors.integer(argv[index + 1], 0, 1000000),
            first = errors.integer(argv[index + 2], 0, 2 ^ 43), value = argv[index + 3], history = argv[index + 4],
        }
        if not entries.is_id(letter.id) or not letter.count or not letter.first or #letter.history > dead.longest_history then
            return nil, errors.refuse('INVALID_OPTION', 'a letter cannot be read')
        end
        letters[#letters + 1] = letter
    end
    return letters
end

-- What keeps a letter out: there (the queue has its id), busy (an attempt that began later brings it), damaged, large.
local function hindrance(call, letter, token, source)
    local k = call.k
    local known = redis.call('HGET', k.arriving, letter.id)
    if known then
        local its_token, its_source = string.match(known, '^(%S+) (%S+)$')
        if its_source ~= source or (number_of(its_token) or 0) >= number_of(token) then
            return 'busy'
        end
        letter.is_known = true
    elseif redis.call('HEXISTS', k.messages, letter.id) == 1 then
        return 'there'
    end
    local head, stop = entries.head(letter.value)
    if not head or (head.n or 0) > #letter.value - stop then
        return 'damaged'
    end
    if #letter.value - stop > call.queue.max_size then
        return 'large'
    end
    letter.head, letter.size = head, #letter.value - stop
end

-- psmq_v1_arrive: stores copies of letters that depart elsewhere; nobody gets them before they are admitted.
-- argv: clock, revision, client, number, nonce, token, source, keep_count ('1': one more delivery; '': the count starts
--   anew), then for each letter (1 to 100): id, retrieval_count, first ms, stored value, history (netstrings)
-- returns a word for each: done | there | busy | damaged | large | full
function transferring.arrive(ks, argv)
    local call, refusal = calls.begin(ks, argv)
    if not call then return refusal end
    local token, source, keep_count = argv[6], argv[7], argv[8]
    local count = (#argv - 8) / 5
    if not number_of(token) or not is_name(source) or (keep_count ~= '' and keep_count ~= '1')
        or count < 1 or count > most or count % 1 ~= 0 then
        return refuse()
    end
    local letters, bad = read(argv, 9)
    if not letters then return bad end
    local words = {}
    if call.answered then
        for word in string.gmatch(call.answered, '%a+') do
            words[#words + 1] = word
        end
        return words
    end
    local k, queue = call.k, call.queue
    local room = queue.max_length and queue.max_length - push.length(k)
    if room and room < count then
        moving.catch_up(call)
        room = queue.max_length - push.length(k)
    end
    local largest = queue.largest
    for index, letter in ipairs(letters) do
        local id, word = letter.id, hindrance(call, letter, token, source)
        if not word and room and not letter.is_known then
            word = room < 1 and 'full' or nil
            room = room - 1
        end
        words[index] = word or 'done'
        if not word then
            local entry = entries.fresh(letter.head, entries.place(letter.head.p or 0, 0))
            if keep_count == '1' then
                entry.count, entry.first, entry.o = letter.count, letter.first, letter.count + 1
            end
            redis.call('HSET', k.messages, id, letter.value)
            redis.call('HSET', k.state, id, entries.text(entry))
            if letter.history ~= '' then
                redis.call('HSET', k.failures, id, letter.history)
            end
            redis.call('HSET', k.arriving, id, token .. ' ' .. source)
            largest = math.max(largest, letter.size)
        end
    end
    calls.finish(call, table.concat(words, ' '), { 'largest', entries.integer(largest) })
    return words
end

-- psmq_v1_leave: gives up letters whose mark is still this attempt's, with their results, and notes that they left.
-- argv: clock, revision, client, number, nonce, token, target, id… (1 to 100)
-- returns the ids that left
function transferring.leave(ks, argv)
    local call, refusal = calls.begin(ks, argv)
    if not call then return refusal end
    local token, target = argv[6], argv[7]
    if not number_of(token) or not is_name(target) or #argv < 8 or #argv > 7 + most then
        return refuse()
    end
    local left = {}
    if call.answered then
        for id in string.gmatch(call.answered, '%S+') do
            left[#left + 1] = id
        end
        return left
    end
    local k, writes, note = call.k, call.writes, token .. ' ' .. target
    for index = 8, #argv do
        local id = argv[index]
        if redis.call('HGET', k.departing, id) == note and redis.call('ZREM', k.dead, id) == 1 then
            for _, key in ipairs({ k.messages, k.state, k.reasons, k.failures, k.departing }) do
                batch.drop(writes, 'HDEL', key, id)
            end
            batch.put(writes, 'HSET', k.departed, id, note)
            redis.call('UNLINK', keys.result(k.base, id))
            left[#left + 1] = id
        end
    end
    calls.count(call, 'departed', #left)
    if #left > 0 then
        events.note(call, 'departed', left, target)
    end
    calls.finish(call, table.concat(left, ' '))
    return left
end

-- psmq_v1_admit: ends arrivals. Doing it twice is doing it once, so it has no number.
-- argv: clock, revision, source, then for each (1 to 100): id, token, '1' (it left: ready now) or '' (it did not: dropped)
-- returns how many became ready
function transferring.admit(ks, argv)
    local call, refusal = calls.open(ks, argv)
    if not call then return refusal end
    local source, count = argv[3], (#argv - 3) / 3
    if not is_name(source) or count < 1 or count > most or count % 1 ~= 0 then
        return refuse()
    end
    local k, writes, ready = call.k, call.writes, 0
    for index = 4, #argv, 3 do
        local id = argv[index]
        if redis.call('HGET', k.arriving, id) == argv[index + 1] .. ' ' .. source then
            redis.call('HDEL', k.arriving, id)
            if argv[index + 2] == '1' then
                local entry = entries.parse(redis.call('HGET', k.state, id) or '')
                    or { receipt = '-', count = 0, first = 0, place = 0 }
                entry.place = entries.place(entries.priority(entry.place), call.now)
                batch.put(writes, 'HSET', k.state, id, entries.text(entry))
                moving.make_ready(call, id, entry)
                events.note(call, 'arrived', id, source)
                ready = ready + 1
            else
                for _, key in ipairs({ k.messages, k.state, k.failures }) do
                    batch.drop(writes, 'HDEL', key, id)
                end
            end
        end
    end
    calls.count(call, 'arrived', ready)
    calls.close(call)
    if ready > 0 then
        calls.arm(call)
    end
    return ready
end

-- argv from the third on: 1 to 100 pairs of id, token
local function is_pairs(argv)
    return #argv >= 4 and #argv <= 2 + most * 2 and #argv % 2 == 0
end

-- psmq_v1_recall: ends attempts that did not leave yet: they never will. Doing it twice is doing it once.
-- argv: clock, revision, then id, token for each (1 to 100)
-- returns a word for each: left (its note is there, or went with a queue of this name that was deleted) | back
function transferring.recall(ks, argv)
    local call, refusal = calls.open(ks, argv)
    if not call then return refusal end
    if not is_pairs(argv) then return refuse() end
    local k, words, least = call.k, {}, born(call)
    for index = 3, #argv, 2 do
        local id, token = argv[index], argv[index + 1] .. ' '
        if string.find(redis.call('HGET', k.departed, id) or '', token, 1, true) == 1
            or (number_of(argv[index + 1]) or math.huge) <= least then
            words[#words + 1] = 'left'
        else
            words[#words + 1] = 'back'
            if string.find(redis.call('HGET', k.departing, id) or '', token, 1, true) == 1 then
                redis.call('HDEL', k.departing, id)
            end
        end
    end
    return words
end

-- psmq_v1_forget_departed: drops the notes of letters that were admitted. Doing it twice is doing it once.
-- argv: clock, revision, then id, token for each (1 to 100)
-- returns how many notes went
function transferring.forget(ks, argv)
    local call, refusal = calls.open(ks, argv)
    if not call then return refusal end
    if not is_pairs(argv) then return refuse() end
    local k, gone = call.k, 0
    for index = 3, #argv, 2 do
        local id, token = argv[index], argv[index + 1] .. ' '
        if string.find(redis.call('HGET', k.departed, id) or '', token, 1, true) == 1 then
            gone = gone + redis.call('HDEL', k.departed, id)
        end
    end
    return gone
end

-- psmq_v1_transfers: a page of what is on its way.
-- argv: clock, revision, part (departing: marked, and still dead | departed: left, and not yet forgotten | arriving),
--   cursor ('0' at first)
-- returns { next cursor ('0' at the end), id, '<token> <the other queue>', … }
function transferring.transfers(ks, argv)
    local call, refusal = calls.open(ks, argv)
    if not call then return refusal end
    local cursor = argv[4]
    if not parts[argv[3]] or not cursor or #cursor > 20 or not string.find(cursor, '^%d+$') then
        return errors.refuse('INVALID_OPTION', 'part or cursor cannot be read')
    end
    local found = redis.call('HSCAN', call.k[argv[3]], cursor, 'COUNT', page)
    return { found[1], unpack(found[2]) }
end
