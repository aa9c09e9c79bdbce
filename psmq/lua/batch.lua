-- Writes, gathered and sent as one command a key: a batch of 64 messages costs a dozen commands, not hundreds.
local batch = {}

-- unpack() works to 7,990 values
local most = 4000

function batch.new()
    return { order = {} }
end

local function list(writes, command, key)
    local keys_of = writes[command]
    if not keys_of then
        keys_of = {}
        writes[command] = keys_of
    end
    local found = keys_of[key]
    if not found then
        found = { command = command, key = key }
        keys_of[key] = found
        writes.order[#writes.order + 1] = found
    end
    return found
end

-- one member or field (ZREM, HDEL, UNLINK-like lists)
function batch.drop(writes, command, key, member)
    local found = list(writes, command, key)
    found[#found + 1] = member
end

-- a pair: score and member (ZADD), field and value (HSET)
function batch.put(writes, command, key, first, second)
    local found = list(writes, command, key)
    found[#found + 1] = first
    found[#found + 1] = second
end

-- Small zsets and hashes are kept by the server as lists that are searched from their start: putting 64 members into
-- one takes longer than all else that a call does. One member that is too long for a list turns it into a table, which
-- it stays when that member is taken out again. So many members at once are worth the two commands.
local enough = 24
local too_long = 'one member longer than 64 bytes: what it is put into becomes a table'

local taken_out_by = { ZADD = 'ZREM', HSET = 'HDEL' }

-- As batch.put for all of `pairs`, { first, second, … }, sent at once.
function batch.put_many(command, key, pairs)
    if #pairs < enough * 2 then
        redis.call(command, key, unpack(pairs))
        return
    end
    -- the score of a member, or the field of a value
    redis.call(command, key, command == 'ZADD' and 0 or too_long, too_long, unpack(pairs))
    redis.call(taken_out_by[command], key, too_long)
end

local function send(found)
    local size = #found
    for start = 1, size, most do
        redis.call(found.command, found.key, unpack(found, start, math.min(start + most - 1, size)))
    end
end

-- Removals first: what is moved within one key is taken out, then put in.
-- returns writes for what comes next
function batch.flush(writes)
    if #writes.order == 0 then
        return writes
    end
    for _, found in ipairs(writes.order) do
        if found.command == 'ZREM' or found.command == 'HDEL' then
            send(found)
        end
    end
    for _, found in ipairs(writes.order) do
        if found.command ~= 'ZREM' and found.command ~= 'HDEL' then
            send(found)
        end
    end
    return batch.new()
end

-- HMGET in slices that unpack() can take.
function batch.fetch(key, ids)
    if #ids <= most then
        return #ids > 0 and redis.call('HMGET', key, unpack(ids)) or {}
    end
    local values = {}
    for start = 1, #ids, most do
        local part = redis.call('HMGET', key, unpack(ids, start, math.min(start + most - 1, #ids)))
        for index = 1, #part do
            values[start + index - 1] = part[index]
        end
    end
    return values
end
