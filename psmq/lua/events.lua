-- What happened to messages, for those who ask later: off unless the queue's event_log says how many events are kept.
-- A call adds one entry to a stream, however many messages it touched. An entry's id is the number of its last event,
-- so that the stream is cut by events and not by entries. Its text: '<ms> <client>', then for each kind of event
-- '<verb> <id>,<id>… <details>', on a line each.
local events = {}

-- events a queue may keep; bytes of a reason or of metadata in one
events.most = 100000
local most_details = 500

-- A log for the call, where the queue keeps one. What is noted is written when the call ends.
function events.open(queue)
    return queue.event_log and { count = 0, order = {} } or nil
end

-- Notes that something happened to messages of the call.
-- ids: one id, or a list of them that changes no more
function events.note(call, verb, ids, details)
    local log = call.log
    if not log then
        return
    end
    local head = details and verb .. details or verb
    local found = log[head]
    if not found then
        found = { verb = verb, details = details }
        log[head], log.order[#log.order + 1] = found, found
    end
    if type(ids) == 'table' then
        for index = 1, #ids do
            found[#found + 1] = ids[index]
        end
        log.count = log.count + #ids
    else
        found[#found + 1] = ids
        log.count = log.count + 1
    end
end

-- ' ' .. text, on one line and bounded; '' for none
local function details_of(text)
    if not text or text == '' then
        return ''
    end
    return ' ' .. string.gsub(string.sub(text, 1, most_details), '\n', ' ')
end

-- Writes what was noted, and counts it among what the call writes anyway. Nothing that lies in the log's place may stop the call: it begins anew then.
function events.keep(call)
    local log, k = call.log, call.k
    if not log or log.count == 0 then
        return
    end
    local lines = { entries.integer(call.time) .. ' ' .. (call.client or '') }
    for _, found in ipairs(log.order) do
        lines[#lines + 1] = found.verb .. ' ' .. table.concat(found, ',') .. details_of(found.details)
    end
    local text, last = table.concat(lines, '\n'), call.queue.events + log.count
    call.counters.events = log.count
    local oldest = entries.integer(math.max(last - call.queue.event_log + 1, 0))
    local id = entries.integer(last) .. '-0'
    local added = redis.pcall('XADD', k.events, 'MINID', '~', oldest, id, 'e', text)
    if type(added) == 'table' and added.err then
        redis.call('XLEN', k.events) -- sets aside what is no stream
        redis.call('UNLINK', k.events)
        redis.pcall('XADD', k.events, id, 'e', text)
    end
end
