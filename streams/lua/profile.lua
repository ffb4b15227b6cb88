-- Stores a profile unless it was written before the user was erased.
-- KEYS: profile:{user}, erased:{user}, epoch, all of the user's bucket.
-- ARGV: record (JSON), updated_ms, 1 for a restore, which writes before the key `epoch` is there.
-- Returns 1 when it was stored, 0 when the erasure is as new.
if ARGV[3] ~= '1' and redis.call('EXISTS', KEYS[3]) == 0 then
  return redis.error_reply('NOEPOCH Redis holds no key ' .. KEYS[3] .. ': run `oxygenrec restore`')
end
local erased = redis.call('GET', KEYS[2])
if erased and tonumber(ARGV[2]) <= tonumber(erased) then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1])
return 1
