-- Stores an instruction unless one as new is there or the user is erased.
-- KEYS: instruction:{generation}:{user}, erased:{user}, epoch.
-- ARGV: record (JSON), as_of_ms, expires_ms, 1 for a restore, which writes before the key `epoch` is there.
-- Returns 1 when it was stored, 0 when a newer window already spoke, -1 when the user is erased.
if ARGV[4] ~= '1' and redis.call('EXISTS', KEYS[3]) == 0 then
  return redis.error_reply('NOEPOCH Redis holds no key epoch: run `oxygenrec restore`')
end
if redis.call('EXISTS', KEYS[2]) == 1 then
  return -1
end
local current = redis.call('HGET', KEYS[1], 'as_of_ms')
if current and tonumber(current) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('HSET', KEYS[1], 'record', ARGV[1], 'as_of_ms', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
