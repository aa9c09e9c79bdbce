-- One message, wherever it is, and what the log says of it: a trip for each look, however many messages there are.
local tracing = {}

-- entries of the log that one call reads, bytes of them, and entries read at once: one may be as large as 200 pushes
local most_entries, most_bytes, slice = 1000, 1048576, 10
-- bytes of what the server itself wrote as a result
local most_result = 1000

-- Where a message is, as the next get would see it. returns state ('' : nowhere), score, entry, reason
local function whereabouts(call, id)
    local k, now = call.k, call.now
    local state = redis.call('HGET', k.state, id)
    local entry = state and entries.parse(state) or nil
    local over = entry and entry.x and entry.x <= now
    local place = redis.call('ZSCORE', k.ready, id) or redis.call('ZSCORE', k.suspects, id)
    if place then
        return over and '' or 'ready', place, entry
    end
    local due = redis.call('ZSCORE', k.delayed, id)
    if due then
        return over and '' or tonumber(due) <= now and 'ready' or 'delayed', due, entry
    end
    local ends = redis.call('ZSCORE', k.leased, id)
    if ends and (tonumber(ends) > now or not entry or (entry.w and now < call.grace)) then
        return 'leased', ends, entry
    elseif ends then
        local limit = entries.limit(entry, call.queue)
        if entry.count >= limit then
            return 'dead', ends, entry, dead.lost(entry, limit)
        end
        return over and '' or 'ready', ends, entry
    end
    local buried = redis.call('ZSCORE', k.dead, id)
    return buried and 'dead' or '', buried or '0', entry, buried and redis.call('HGET', k.reasons, id)
end

-- Adds to a reply the entries of the log behind `after` that mention `needle`, without the lines that do not.
-- returns where to go on, 1 when there is more
local function read_log(call, after, needle, reply)
    local bytes = 0
    for _ = 1, most_entries / slice do
        local found = redis.call('XRANGE', call.k.events, entries.integer(after + 1), '+', 'COUNT', slice)
        for _, item in ipairs(found) do
            local text = type(item[2]) == 'table' and item[2][2] or ''
            bytes = bytes + #text
            after = string.match(item[1], '^%d+')
            if string.find(text, needle, 1, true) then
                local lines = {}
                for line in string.gmatch(text, '[^\n]+') do
                    if #lines == 0 or string.find(line, needle, 1, true) then
                        lines[#lines + 1] = line
                    end
                end
                reply[#reply + 1] = after
                reply[#reply + 1] = table.concat(lines, '\n')
            end
        end
        if #found < slice then
            return after, 0
        end
        if bytes > most_bytes then
            break
        end
    end
    return after, 1
end

-- psmq_v1_trace: where a message is, and what the log says of it.
-- argv: clock, revision, id, or the last of its characters (then only the log is looked at), number of the event behind
--   which the log is read ('0': all of it)
-- returns { state (ready delayed leased dead, '': in none), score, retrieval_count, first ms, options, head with
--   metadata and without data, reason, failures, ms its result is kept for (-1: none), the result if the server wrote it,
--   events that are kept (0: no log), where to go on, more (1: ask again at once),
--   then for each entry that mentions it: number of its last event, text (see events.lua) }
function tracing.trace(ks, argv)
    local call, refusal = calls.open(ks, argv)
    if not call then return refusal end
    local id, after, k = argv[3], argv[4], call.k
    if not id or id == '' or #id > 40 or not errors.integer(after, 0, 2 ^ 53) then
        return errors.refuse('INVALID_OPTION', 'id or place in the log cannot be read')
    end
    local state, score, entry, reason = whereabouts(call, id)
    local value = state ~= '' and redis.call('HGET', k.messages, id) or ''
    local head, stop = entries.head(value)
    local left = redis.call('PTTL', keys.result(k.base, id))
    local result = left > 0 and redis.call('LINDEX', keys.result(k.base, id), 0) or ''
    local reply = {
        state, entries.integer(tonumber(score)), entry and entry.count or 0,
        entry and entries.integer(entry.first) or '0', entry and entries.options(entry) or '',
        head and string.sub(value, 1, stop + (head.n or 0)) or ';', reason or '',
        state ~= '' and redis.call('HGET', k.failures, id) or '', left > 0 and left or -1,
        string.byte(result) == 33 and string.sub(result, 1, most_result) or '', -- 33: '!'
        call.queue.event_log or 0, after, 0,
    }
    reply[12], reply[13] = read_log(call, after, id, reply)
    return reply
end
