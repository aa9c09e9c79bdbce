-- What the library sees of the server. A key of a type that is not ours was written by a stranger, and would stop every
-- call that meets it, some of them half-way. It is set aside, as …:garbage, and the call goes on as if it had not been
-- there; a call that may not write sees nothing in it.

-- The one of the moment: that of loading has nothing but register_function.
local function server()
    return redis
end

local register = redis.register_function
local redis = {}
redis.register_function = register

function redis.pcall(...)
    return server().pcall(...)
end

function redis.error_reply(text)
    return server().error_reply(text)
end

local function set_aside(refusal, command, key, ...)
    if not string.find(refusal.err, 'WRONGTYPE', 1, true) then
        error(refusal)
    end
    local base = string.match(key, '^.-}') or key
    local moved = server().pcall('RENAME', key, base .. ':garbage')
    if type(moved) == 'table' and moved.err then
        key = base .. ':never'
    end
    return server().call(command, key, ...)
end

local attempt

function redis.call(...)
    attempt = attempt or server().pcall
    local reply = attempt(...)
    if type(reply) == 'table' and reply.err then
        return set_aside(reply, ...)
    end
    return reply
end
