-- The keys of one queue, spelled here and nowhere else. All share the hash tag of the first declared key,
-- so that a queue lives in one slot of a cluster.
local keys = {}

-- part -> what follows 'psmq:{name}'
keys.suffixes = {
    messages = ':messages',   -- hash  id -> '<options>;<metadata><data>'
    state = ':state',         -- hash  id -> 'receipt count first place options'; only once there is something to say
    ready = ':ready',         -- zset  id -> -priority * 2^42 + ms it became ready
    suspects = ':suspects',   -- zset  as ready: what a worker died with, to be run alone
    delayed = ':delayed',     -- zset  id -> ms it becomes ready
    leased = ':leased',       -- zset  id -> ms its lease ends
    dead = ':dead',           -- zset  id -> ms it was buried
    reasons = ':reasons',     -- hash  id -> why it is dead
    failures = ':failures',   -- hash  id -> what went wrong so far, as netstrings
    departing = ':departing', -- hash  id -> '<token> <target>': a dead letter that is being moved (see transferring.lua)
    departed = ':departed',   -- hash  id -> '<token> <target>': one that left, until the target has it
    arriving = ':arriving',   -- hash  id -> '<token> <source>': stored, and not to be had before the source gives it up
    expiring = ':expiring',   -- zset  id -> ms its ttl ends; only messages with a ttl, not while leased
    wake = ':wake',           -- list  at most one token: wakes one waiting getter
    clients = ':clients',     -- hash  client -> its last numbered command and what was answered
    recent = ':recent',       -- zset  client -> ms of its last command, to 10 s
    consumers = ':consumers', -- zset  client -> ms it last asked for messages, to 10 s
    dedup = ':dedup',         -- hash  deduplication id -> 'message_id expiry'
    dedup_ends = ':dedup:ends', -- zset  deduplication id -> ms its window ends
    minutes = ':minutes',     -- hash  minute modulo 480 -> what was done in it (see rollups.lua)
    events = ':events',       -- stream what happened to messages, if the queue's event_log says so (see events.lua)
    results = ':results',     -- zset  id -> ms its result is dropped
    garbage = ':garbage',     -- any   what a stranger wrote in the place of another key, set aside
}

-- The keys of the queue whose hash is `base`, each spelled when it is first asked for, and kept between calls: spelling
-- them again costs as much as a command.
keys.of = memo.of(function(base)
    return setmetatable({ base = base }, { __index = function(spelled, part)
        local key = base .. keys.suffixes[part]
        rawset(spelled, part, key)
        return key
    end })
end)

-- The list that holds the result of one message.
function keys.result(base, id)
    return base .. ':result:' .. id
end
