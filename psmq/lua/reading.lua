-- Looking without touching. Reads see a queue as the next get would: what is due counts as ready, what outlived its
-- deliveries or its ttl as dead or gone, though nobody has moved it yet.
local reading = {}

-- due messages that a read sorts in, and rows that it looks at for a page; more show up when somebody gets
local most_due, most_seen = 150, 500
local most_bytes = 262144
local states = { ready = true, delayed = true, leased = true, dead = true }

local function before(left, right)
    return left.score < right.score or (left.score == right.score and left.id < right.id)
end

local function with_states(call, found)
    local rows, ids = {}, {}
    for index = 1, #found, 2 do
        rows[#rows + 1] = { id = found[index], score = math.max(-9e15, math.min(9e15, tonumber(found[index + 1]))) }
        ids[#ids + 1] = found[index]
    end
    for index, state in ipairs(batch.fetch(call.k.state, ids)) do
        rows[index].entry = state and entries.parse(state) or nil
        rows[index].damaged = state and not rows[index].entry
    end
    return rows
end

-- cursor: '' | '<score> <id>', whatever a stranger has written as an id  returns { score, id } or nil, false when it cannot be read
local function cursor_of(text)
    if text == '' then
        return nil
    end
    local score, id = string.match(text or '', '^(%-?%d+) (.*)$')
    if not score or #score > 17 then
        return false
    end
    return { score = tonumber(score), id = id }
end

local function ended(call, row)
    return row.entry and row.entry.x and row.entry.x <= call.now
end

-- Whether a row of ready or delayed is what it seems.
local function sound(call, row)
    return not row.damaged and not ended(call, row)
end

-- What time has done though nobody has moved it yet, at most `most` of each kind:
-- ready, dead: rows with the place or the time of death they will have, dead ones with their reason
-- held: leases that ended and are not passed on before their grace is over
-- gone: id -> true when its ttl ended; late, early: how many of these are delayed, and due or not
-- left: how many of the ended leases are neither ready nor held
local function overdue(call, most)
    local k, now = call.k, call.now
    local found = { ready = {}, dead = {}, held = {}, gone = {}, late = 0, early = 0, left = 0 }
    local function due(key)
        return with_states(call, redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, most, 'WITHSCORES'))
    end
    local function expire(row, since)
        if call.queue.on_expiry == 'bury' then
            row.score, row.reason = since, dead.expired
            found.dead[#found.dead + 1] = row
        end
    end
    local ids = {}
    for _, row in ipairs(due(k.expiring)) do
        found.gone[row.id] = true
        ids[#ids + 1] = row.id
        expire(row, row.score)
    end
    for _, due_at in ipairs(#ids > 0 and redis.call('ZMSCORE', k.delayed, unpack(ids)) or {}) do
        if due_at and tonumber(due_at) <= now then
            found.late = found.late + 1
        elseif due_at then
            found.early = found.early + 1
        end
    end
    for _, row in ipairs(due(k.delayed)) do
        if not found.gone[row.id] then
            row.score = entries.place(row.entry and entries.priority(row.entry.place) or 0, row.score)
            found.ready[#found.ready + 1] = row
        end
    end
    for _, row in ipairs(due(k.leased)) do
        local entry = row.entry
        if entry and entry.w and now < call.grace then
            found.held[#found.held + 1] = row
        elseif entry and entry.count < entries.limit(entry, call.queue) and not ended(call, row) then
            row.score = entries.place(entries.priority(entry.place), row.score)
            found.ready[#found.ready + 1] = row
        else
            found.left = found.left + 1
            if entry and entry.count < entries.limit(entry, call.queue) then
                expire(row, entry.x)
            else
                row.reason = entry and dead.lost(entry, entries.limit(entry, call.queue)) or 'its state cannot be read'
                found.dead[#found.dead + 1] = row
            end
        end
    end
    return found
end

-- Adds to `rows` up to `limit` of a zset behind a cursor, those that `fit(call, row)`.
local function collect(call, rows, key, cursor, limit, fit)
    local start, slice, kept, seen = 0, math.max(limit, 100), 0, 0
    if cursor then
        local found = redis.call('ZSCORE', key, cursor.id)
        if found and tonumber(found) == cursor.score then
            start = redis.call('ZRANK', key, cursor.id) + 1
        else
            start = redis.call('ZCOUNT', key, '-inf', '(' .. entries.integer(cursor.score))
        end
    end
    while kept < limit and seen < math.max(limit, most_seen) do
        local found = redis.call('ZRANGE', key, start + seen, start + seen + slice - 1, 'WITHSCORES')
        for _, row in ipairs(with_states(call, found)) do
            if kept < limit and (not cursor or before(cursor, row)) and (not fit or fit(call, row)) then
                rows[#rows + 1] = row
                kept = kept + 1
            end
        end
        seen = seen + slice
        if #found < slice * 2 then break end
    end
end

local function behind(rows, cursor, into)
    for _, row in ipairs(rows) do
        if not cursor or before(cursor, row) then
            into[#into + 1] = row
        end
    end
    return into
end

-- A page of one state, in its order: rows { id, score, entry, reason }, at most `limit`.
local function page(call, state, cursor, limit, most)
    local k, found = call.k, overdue(call, most)
    local since = state == 'dead' and dead.kept_since(call)
    if since and (not cursor or cursor.score <= since) then
        cursor = { score = since, id = '~' }
    end
    local rows = behind(found[state] or {}, cursor, {})
    if state == 'ready' then
        collect(call, rows, k.suspects, cursor, limit, sound)
        collect(call, rows, k.ready, cursor, limit, sound)
    elseif state == 'dead' then
        collect(call, rows, k.dead, cursor, limit)
    else
        if state == 'leased' then
            behind(found.held, cursor, rows)
        end
        -- What is due, though not yet moved, is ready.
        if not cursor or cursor.score < call.now then
            cursor = { score = call.now, id = '~' }
        end
        collect(call, rows, k[state], cursor, limit, state == 'delayed' and sound or nil)
    end
    table.sort(rows, before)
    while #rows > limit do
        rows[#rows] = nil
    end
    return rows
end

-- Adds a message to a reply: id, score, retrieval_count, first ms, options, value.
-- with_data: '1' | '0' metadata only | 'any' also what is missing or damaged; false when it is and that was not asked
-- value: as it is stored, where the caller has fetched it
local function show(call, reply, row, with_data, value)
    if value == nil then
        value = redis.call('HGET', call.k.messages, row.id)
    end
    local head, stop = entries.head(value or '')
    if not head then
        if with_data ~= 'any' then
            return false
        end
        value = ';' .. (value or '')
    end
    local entry, size = row.entry, #reply
    if with_data == '0' then
        value = string.sub(value, 1, stop + (head.n or 0))
    end
    reply[size + 1] = row.id
    reply[size + 2] = entries.integer(row.score)
    reply[size + 3] = entry and entry.count or 0
    reply[size + 4] = entry and entries.integer(entry.first) or '0'
    reply[size + 5] = entry and entries.options(entry) or ''
    reply[size + 6] = value
    return true
end

-- psmq_v1_peek: the message that the next get would give.
-- argv: clock, revision
-- returns {} or { id, score, retrieval_count, first ms, options, value }
function reading.peek(ks, argv)
    local call, refusal = calls.open(ks, argv)
    if not call then return refusal end
    local reply = {}
    -- As much as one get would move, so that both see the same order.
    for _, row in ipairs(page(call, 'ready', nil, 20, moving.budget)) do
        if show(call, reply, row, '1') then
            break
        end
    end
    return reply
end

-- psmq_v1_messages: a page of the messages in one state, in their order; it ends early after 256 KiB.
-- argv: clock, revision, state (ready delayed leased dead), limit (1 … 1000), cursor '<score> <id>' or '',
--   data ('1', or '0' for metadata only)
-- returns six parts for each: id, score, retrieval_count, first ms, options, value
function reading.messages(ks, argv)
    local call, refusal = calls.open(ks, argv)
    if not call then return refusal end
    local state, limit, cursor, with_data = argv[3], errors.integer(argv[4], 1, 1000), argv[5], argv[6]
    if not states[state] then
        return errors.refuse('INVALID_OPTION', 'state must be ready, delayed, leased or dead')
    end
    if not limit then
        return errors.refuse('INVALID_OPTION', 'limit must be between 1 and 1000')
    end
    cursor = cursor_of(cursor)
    if cursor == false or (with_data ~= '0' and with_data ~= '1') then
        return errors.refuse('INVALID_OPTION', 'cursor or data cannot be read')
    end
    local reply, bytes = {}, 0
    for _, row in ipairs(page(call, state, cursor, limit, most_due)) do
        bytes = bytes + redis.call('HSTRLEN', call.k.messages, row.id)
        if bytes > most_bytes and #reply > 0 then break end
        show(call, reply, row, state == 'dead' and with_data == '1' and 'any' or with_data)
    end
    return reply
end

-- The last records of a history, and of each as much as tells what it was: where many letters are looked through.
local most_records, most_of_record = 4, 1000
local function shortened(history)
    local records, at, text = {}, 1, ''
    while true do
        local digits = string.match(history, '^(%d+):', at)
        if not digits or #digits > 6 then break end
        local start = at + #digits + 1
        records[#records + 1] = { start, start + math.min(tonumber(digits), most_of_record) - 1 }
        at = start + tonumber(digits) + 1
    end
    for index = math.max(1, #records - most_records + 1), #records do
        local record = string.sub(history, unpack(records[index]))
        text = text .. #record .. ':' .. record .. ','
    end
    return text
end

-- psmq_v1_dead_letters: a page of dead letters, or those with the given ids, with reason and history.
-- argv: clock, revision, limit (1 … 1000), cursor or '', data ('1', '0', or no data and '-' no history, or 's' a short one:
--   the first thousand bytes of its last four records), then ids or none
-- returns eight parts for each: id, buried ms, retrieval_count, first ms, options, value, reason, failures
function reading.dead_letters(ks, argv)
    local call, refusal = calls.open(ks, argv)
    if not call then return refusal end
    local limit, cursor, with_data = errors.integer(argv[3], 1, 1000), argv[4], argv[5]
    if not limit or #argv > 1005 then
        return errors.refuse('INVALID_OPTION', 'limit must be between 1 and 1000')
    end
    cursor = cursor_of(cursor)
    local history, short = with_data ~= '-', with_data == 's'
    if short or not history then with_data = '0' end
    if cursor == false or (with_data ~= '0' and with_data ~= '1') then
        return errors.refuse('INVALID_OPTION', 'cursor or data cannot be read')
    end
    local k, rows = call.k, {}
    if #argv > 5 then
        local dying, found, kept = {}, {}, dead.kept_since(call)
        for _, row in ipairs(overdue(call, most_due).dead) do
            dying[row.id] = row
        end
        for index = 6, #argv do
            local id = argv[index]
            local since = redis.call('ZSCORE', k.dead, id)
            if since and (not kept or tonumber(since) > kept) then
                found[#found + 1], found[#found + 2] = id, since
            elseif dying[id] then
                rows[#rows + 1] = dying[id]
            end
        end
        for _, row in ipairs(with_states(call, found)) do
            rows[#rows + 1] = row
        end
        table.sort(rows, before)
    else
        rows = page(call, 'dead', cursor, limit, most_due)
    end
    local ids, bytes = {}, 0
    -- Where the largest message would not fill the page, none is weighed.
    local weigh = #rows * call.queue.largest > most_bytes
    for index, row in ipairs(rows) do
        bytes = bytes + (weigh and redis.call('HSTRLEN', k.messages, row.id) or 0)
        if history then
            bytes = bytes + redis.call('HSTRLEN', k.failures, row.id) / (short and 4 or 1)
        end
        if bytes > most_bytes and index > 1 then break end
        ids[index] = row.id
    end
    local reply = {}
    local values, reasons = batch.fetch(k.messages, ids), batch.fetch(k.reasons, ids)
    local histories = history and batch.fetch(k.failures, ids) or {}
    for index in ipairs(ids) do
        local row = rows[index]
        if not show(call, reply, row, with_data, values[index]) then
            show(call, reply, row, 'any', values[index])
        end
        reply[#reply + 1] = row.reason or reasons[index] or ''
        local text = histories[index] or ''
        reply[#reply + 1] = short and shortened(text) or text
    end
    return reply
end

-- psmq_v1_info: counts, ages, counters and settings.
-- argv: clock, revision
-- returns { ready, delayed, leased, dead, consumers, oldest ready ms or -1, next due ms or -1,
--   then field, value of the queue hash … }
function reading.info(ks, argv)
    local call, refusal = calls.open(ks, argv)
    if not call then return refusal end
    local k, now = call.k, call.now
    local found = overdue(call, most_due)
    local expired = redis.call('ZCOUNT', k.expiring, '-inf', now)
    local due = redis.call('ZCOUNT', k.delayed, '-inf', now)
    local over = redis.call('ZCOUNT', k.leased, '-inf', now) - #found.held
    local ready = redis.call('ZCARD', k.ready) + redis.call('ZCARD', k.suspects) - (expired - found.late - found.early)
        + (due - found.late) + (over - found.left)
    -- Exact within one priority; among several, that of the most urgent.
    local oldest
    local rows = { unpack(found.ready) }
    collect(call, rows, k.ready, nil, 1, sound)
    collect(call, rows, k.suspects, nil, 1, sound)
    for _, row in ipairs(rows) do
        local since = row.score + entries.priority(row.score) * entries.step
        oldest = math.min(oldest or since, since)
    end
    local since = dead.kept_since(call)
    local dead_letters = since and redis.call('ZCOUNT', k.dead, '(' .. entries.integer(since), '+inf')
        or redis.call('ZCARD', k.dead)
    for _, row in ipairs(found.dead) do
        dead_letters = dead_letters + ((not since or row.score > since) and 1 or 0)
    end
    local reply = {
        ready,
        redis.call('ZCARD', k.delayed) - due - found.early,
        redis.call('ZCARD', k.leased) - over,
        dead_letters,
        redis.call('ZCOUNT', k.consumers, now - 60000, '+inf'),
        oldest and math.max(0, now - oldest) or -1,
        moving.wait(call),
    }
    for _, part in ipairs(redis.call('HGETALL', k.base)) do
        reply[#reply + 1] = part
    end
    return reply
end

-- psmq_v1_stats: what was done in the minute that runs and the whole ones before it.
-- argv: clock, revision, whole minutes (1 … 480)
-- returns { now in ms, then the text of each minute in which something was done, in no order (see rollups.lua) }
function reading.stats(ks, argv)
    local call, refusal = calls.open(ks, argv)
    if not call then return refusal end
    local wanted = errors.integer(argv[3], 1, rollups.kept)
    if not wanted then
        return errors.refuse('INVALID_OPTION', 'minutes must be between 1 and 480')
    end
    return { entries.integer(call.now), unpack(rollups.read(call, wanted)) }
end
