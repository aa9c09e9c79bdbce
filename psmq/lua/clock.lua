-- Time. Delays, leases and ttls run in logical time: the server's TIME plus an offset that grows by every jump back.
-- So it never goes back (nothing is delivered early) and never stands still (nothing waits for a jump to be caught up).
local clock = {}

-- The server's own, in microseconds.
function clock.micros()
    local parts = redis.call('TIME')
    return parts[1] * 1000000 + parts[2]
end

-- The integer ms and microseconds of this call. `override` is ms, '' in production.
-- stored: clock, seen (last TIME in ms), offset (ms)
-- returns logical ms, raw ms, raw microseconds, offset in ms | nil, refusal
function clock.read(override, stored)
    local time, micros
    if override == '' then
        micros = clock.micros()
        time = math.floor(micros / 1000)
    else
        if stored.clock ~= 'test' then
            return nil, errors.refuse('INVALID_OPTION', 'clock can be moved in a queue made with clock=test only')
        end
        -- what is longest from then on still fits into a place
        time = errors.integer(override, 0, 2 ^ 42 - errors.longest)
        if not time then
            return nil, errors.refuse('INVALID_OPTION', 'clock must be integer milliseconds')
        end
        micros = time * 1000
    end
    local seen, offset = stored.seen or 0, stored.offset or 0
    if time < seen then
        offset = offset + (seen - time)
    end
    return time + offset, time, micros, offset
end
