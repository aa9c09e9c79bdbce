-- A queue as a thing: made, set up, paused, emptied, taken away.
local queues = {}

-- Longer than what the server keeps in a flat list: so the hash is a real one, and reading 20 of its 40 fields
-- costs 20 look-ups instead of 20 walks.
local about = 'A queue of psmq. Its messages, leases and dead letters are in the keys beside this one.'
-- messages, and results, that one call deletes: some 3 ms of work; ids that one may name
local slice, most_ids = 200, 1000
local settings = {
    visibility_timeout = { 1, errors.longest }, delay = { 0, errors.longest }, max_size = { 1, 536870912 },
    max_length = { 1, 2 ^ 53 }, max_retrievals = { 1, 1000000 }, ttl = { 1, errors.longest },
    dead_retention = { 1, errors.longest },
    deduplication_window = { 0, errors.longest }, event_log = { 0, events.most },
}
local words = { on_expiry = { drop = true, bury = true }, clock = { server = true, test = true } }
local optional = { max_length = true, ttl = true, dead_retention = true }
local every = 11

-- argv from `first` on: field, value …  returns { field, value, … } as given | nil, refusal
local function read(argv, first)
    local fields = {}
    for index = first, #argv, 2 do
        local field, value = argv[index], argv[index + 1]
        local range, known = settings[field], words[field]
        local fine = (optional[field] and value == '') or (known and known[value])
            or (range and value and errors.integer(value, range[1], range[2]))
        if not fine then
            return nil, errors.refuse('INVALID_OPTION', string.sub(field, 1, 40) .. ' is no setting or out of range')
        end
        fields[#fields + 1], fields[#fields + 2] = field, value
    end
    return fields
end

-- psmq_v1_create_queue: makes a queue, or opens it.
-- argv: '', revision, how (create: must not exist | ensure: may exist), number of explicit pairs,
--   explicit field, value …, then the remaining fields and their defaults
-- returns { created (1|0), field, value, … } of the hash; QUEUE_EXISTS, QUEUE_CONFIG_CONFLICT field stored asked
function queues.create(ks, argv)
    local revision, how = errors.integer(argv[2], 0, 1000000), argv[3]
    local explicit = errors.integer(argv[4], 0, every)
    if #ks ~= 2 or not revision or not explicit or (how ~= 'create' and how ~= 'ensure') then
        return errors.refuse('INVALID_OPTION', 'arguments cannot be read')
    end
    if revision > calls.revision then
        return errors.refuse('OLD_LIBRARY', string.format('%d', calls.revision))
    end
    local fields, refusal = read(argv, 5)
    if not fields then return refusal end
    local base, given, different = ks[1], {}, 0
    for index = 1, #fields, 2 do
        different = different + (given[fields[index]] and 0 or 1)
        given[fields[index]] = true
    end
    if different ~= every or #fields ~= every * 2 then
        return errors.refuse('INVALID_OPTION', 'settings must be given each once')
    end
    local state = redis.call('HMGET', base, 'layout', 'deleting')
    if state[2] then
        return errors.refuse('QUEUE_DELETING')
    end
    if (tonumber(state[1]) or 0) > calls.layout then
        return errors.refuse('SERVER_UNSUITABLE', 'its data was written by a newer psmq: upgrade this client')
    end
    if not state[1] then
        redis.call('HSET', base, 'about', about, 'layout', calls.layout, 'born', entries.integer(clock.micros()),
            'received', 0, 'sent', 0, unpack(fields))
    elseif how == 'create' then
        return errors.refuse('QUEUE_EXISTS')
    else
        for index = 1, explicit * 2, 2 do
            local stored = redis.call('HGET', base, fields[index]) or ''
            if stored ~= fields[index + 1] then
                local asked = fields[index + 1]
                return errors.refuse('QUEUE_CONFIG_CONFLICT', string.format('%s %s %s', fields[index],
                    stored == '' and 'none' or stored, asked == '' and 'none' or asked))
            end
        end
    end
    return { state[1] and 0 or 1, unpack(redis.call('HGETALL', base)) }
end

-- psmq_v1_configure: changes settings of a queue; those of messages already in it that carry none of their own follow.
-- argv: clock, revision, field, value …
-- returns field, value … of the hash
function queues.configure(ks, argv)
    local call, refusal = calls.open(ks, argv)
    if not call then return refusal end
    local fields, bad = read(argv, 3)
    if not fields then return bad end
    for index = 1, #fields, 2 do
        if fields[index] == 'clock' and fields[index + 1] ~= (call.queue.clock or 'server') then
            return errors.refuse('INVALID_OPTION', 'clock is fixed when a queue is created')
        end
    end
    for index = 1, #fields, 2 do
        if fields[index] == 'event_log' and fields[index + 1] == '0' then
            redis.call('UNLINK', call.k.events)
        end
    end
    if #fields > 0 then
        redis.call('HSET', call.k.base, unpack(fields))
    end
    return redis.call('HGETALL', call.k.base)
end

-- psmq_v1_pause: a paused queue takes messages and settlements, and gives nothing.
-- argv: clock, revision, '1' | '0'
-- returns 1 when that changed something
function queues.pause(ks, argv)
    local call, refusal = calls.open(ks, argv)
    if not call then return refusal end
    if argv[3] == '1' then
        call.queue.paused = '1'
        redis.call('DEL', call.k.wake)
        return redis.call('HSETNX', call.k.base, 'paused', entries.integer(call.now))
    end
    call.queue.paused = nil
    local changed = redis.call('HDEL', call.k.base, 'paused')
    calls.arm(call)
    return changed
end

-- psmq_v1_wake: leaves a token, so that a waiting getter looks again; after a test clock was moved.
-- argv: clock, revision
function queues.wake(ks, argv)
    local call, refusal = calls.open(ks, argv)
    if not call then return refusal end
    calls.arm(call)
    return 1
end

-- psmq_v1_purge: deletes up to 200 messages of one state, or the dead letters with the given ids.
-- argv: clock, revision, client, number, nonce, state (ready delayed leased dead), then ids (dead only) or none
-- returns the number deleted; called again until it is 0
function queues.purge(ks, argv)
    local call, refusal = calls.begin(ks, argv)
    if not call then return refusal end
    local state, k = argv[6], call.k
    local sources = { ready = { 'ready', 'suspects' }, delayed = { 'delayed' }, leased = { 'leased' }, dead = { 'dead' } }
    if not sources[state] or (#argv > 6 and state ~= 'dead') or #argv > 6 + most_ids then
        return errors.refuse('INVALID_OPTION', 'state must be ready, delayed, leased or dead; ids are for dead')
    end
    if call.answered then
        return tonumber(call.answered)
    end
    local removed = 0
    if #argv > 6 then
        moving.catch_up(call)
    else
        -- A little of it each time: there is a next call as long as this one finds something.
        moving.promote(call)
        call.writes = batch.flush(call.writes)
    end
    for _, part in ipairs(sources[state]) do
        local ids = {}
        if #argv > 6 then
            local seen = {}
            for index = 7, #argv do
                local id = argv[index]
                if not seen[id] and redis.call('ZSCORE', k.dead, id) then
                    seen[id] = true
                    ids[#ids + 1] = id
                end
            end
        elseif part == 'delayed' or part == 'leased' then
            -- What is due, though not yet moved, is ready.
            ids = redis.call('ZRANGEBYSCORE', k[part], '(' .. entries.integer(call.now), '+inf', 'LIMIT', 0, slice)
        else
            ids = redis.call('ZRANGE', k[part], 0, slice - 1 - removed)
        end
        for _, id in ipairs(ids) do
            batch.drop(call.writes, 'ZREM', k[part], id)
            batch.drop(call.writes, 'ZREM', k.expiring, id)
            for _, hash in ipairs({ k.messages, k.state, k.failures, k.reasons, k.departing }) do
                batch.drop(call.writes, 'HDEL', hash, id)
            end
        end
        events.note(call, 'purged', ids)
        removed = removed + #ids
        if removed >= slice then break end
    end
    calls.count(call, 'purged', removed)
    calls.finish(call, entries.integer(removed))
    return removed
end

-- psmq_v1_delete_queue: first marks the queue, which is gone for everybody from then on, then removes its keys;
-- the hash stays until psmq_v1_forget_queue, so that whoever finds the mark can finish.
-- argv: '', revision, '1' to begin | '0' to go on: a queue that was made anew meanwhile is left alone
-- returns how many results are left: called again, to go on, until it is 0
function queues.delete(ks, argv)
    if #ks ~= 2 or (argv[3] ~= '0' and argv[3] ~= '1') then
        return errors.refuse('INVALID_OPTION', 'arguments cannot be read')
    end
    local base = ks[1]
    local state = redis.call('HMGET', base, 'layout', 'deleting')
    if not state[1] and argv[3] == '1' then
        return errors.refuse('QUEUE_NOT_FOUND')
    elseif not state[2] and argv[3] == '0' then
        return 0
    end
    redis.call('HSET', base, 'deleting', '1')
    local k = keys.of(base)
    local ids = redis.call('ZRANGE', k.results, 0, slice - 1)
    for _, id in ipairs(ids) do
        redis.call('UNLINK', keys.result(base, id))
    end
    if #ids > 0 then
        redis.call('ZREM', k.results, unpack(ids))
    end
    local left = redis.call('ZCARD', k.results)
    if left == 0 then
        -- Last: while the server frees a million messages in the background, whatever else it frees takes longer.
        for part in pairs(keys.suffixes) do
            redis.call('UNLINK', k[part])
        end
    end
    return left
end

-- psmq_v1_forget_queue: the last step of deleting; a queue that was made anew meanwhile is left alone.
-- argv: '', revision
-- returns 1, or 0 when there was nothing to forget
function queues.forget(ks)
    if #ks == 2 and redis.call('HEXISTS', ks[1], 'deleting') == 1 then
        return redis.call('UNLINK', ks[1])
    end
    return 0
end

-- psmq_v1_set_aside: a key beside the queues that should be a set of names, and that a stranger overwrote, is renamed.
-- keys: that key, and one of its slot that never exists
-- argv: '', revision, the other name (of the same slot)
-- returns 1, or 0 when it is a set by now, or not there
function queues.set_aside(ks, argv)
    local aside = argv[3]
    if #ks ~= 2 or not aside or not string.find(aside, '{' .. ks[1] .. '}', 1, true) then
        return errors.refuse('INVALID_OPTION', 'arguments cannot be read')
    end
    local reply = redis.pcall('SMEMBERS', ks[1])
    if type(reply) == 'table' and reply.err and string.find(reply.err, 'WRONGTYPE', 1, true) then
        local moved = redis.pcall('RENAME', ks[1], aside)
        return type(moved) == 'table' and moved.err and moved or 1
    end
    return 0
end
