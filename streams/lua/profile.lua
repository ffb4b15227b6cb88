-- Stores a profile unless it was written before the user was erased.
-- KEYS: profile:{user}, erased:{user}.  ARGV: record (JSON), updated_ms.
-- Returns 1 when it was stored, 0 when the erasure is as new.
local erased = redis.call('GET', KEYS[2])
if erased and tonumber(ARGV[2]) <= tonumber(erased) then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1])
return 1
