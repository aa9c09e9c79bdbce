-- The table of contents: what clients may call. Functions that open, free, settle or extend are allowed at maxmemory,
-- so that a full server can be drained; push, which stores, is not.
local function register(name, callback, flags)
    redis.register_function({ function_name = 'psmq_v1_' .. name, callback = callback, flags = flags })
end

register('create_queue', queues.create, { 'allow-oom' })
register('configure', queues.configure, { 'allow-oom' })
register('pause', queues.pause, { 'allow-oom' })
register('wake', queues.wake, { 'allow-oom' })
register('purge', queues.purge, { 'allow-oom' })
register('delete_queue', queues.delete, { 'allow-oom' })
register('forget_queue', queues.forget, { 'allow-oom' })
register('set_aside', queues.set_aside, { 'allow-oom' })

register('push', push.push, {})
register('exchange', messages.exchange, { 'allow-oom' })
register('pop', messages.pop, { 'allow-oom' })
register('extend', messages.extend, { 'allow-oom' })
register('abandon', messages.abandon, { 'allow-oom' })
register('redrive', redriving.redrive, { 'allow-oom' })
register('hasten', delays.hasten, { 'allow-oom' })
register('bury_waiting', delays.bury, { 'allow-oom' })
register('amend', amending.amend, {})
register('adopt', amending.adopt, {})

register('peek', reading.peek, { 'no-writes' })
register('messages', reading.messages, { 'no-writes' })
register('dead_letters', reading.dead_letters, { 'no-writes' })
register('info', reading.info, { 'no-writes' })
register('stats', reading.stats, { 'no-writes' })
register('trace', tracing.trace, { 'no-writes' })
register('audit', auditing.audit, { 'no-writes' })
