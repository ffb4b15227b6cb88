-- Stores an instruction unless one as new is there or it may know what the user had erased.
-- KEYS: instruction:{generation}:{user}, erased:{user}, epoch, all of the user's bucket.
-- ARGV: record (JSON), as_of_ms, expires_ms, 1 for a restore, which writes before the key `epoch` is there,
-- and the erasure that was known when it was made ("" for none).
-- Returns 1 when it was stored, 0 when a newer window already spoke, -1 when the user was erased since.
if ARGV[4] ~= '1' and redis.call('EXISTS', KEYS[3]) == 0 then
  return redis.error_reply('NOEPOCH Redis holds no key ' .. KEYS[3] .. ': run `oxygenrec restore`')
end
local erased = redis.call('GET', KEYS[2])
if erased and erased ~= ARGV[5] then
  return -1
end
local current = redis.call('HMGET', KEYS[1], 'as_of_ms', 'after_erasure_ms')
-- What speaks about the user from before an erasure is not newer, whatever its window.
if current[1] and (current[2] or '') == ARGV[5] and tonumber(current[1]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('HSET', KEYS[1], 'record', ARGV[1], 'as_of_ms', ARGV[2], 'after_erasure_ms', ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
