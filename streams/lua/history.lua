-- One batch of the router: behaviour into `history:{user}`, popularity into `popular:{scenario}`, erasures in order.
-- ARGV[1] kept actions a user, ARGV[2] how long the marker of an erasure stays (ms), ARGV[3] 1 to write
-- also while the key `epoch` is missing (a restore, an erasure at the edge); then seven values an entry:
--   "a", user, score (event_time_ms), member, weight (0 raises nothing), scenario, item key ("" for none)
--   "e", user, score (event_time_ms), and four empty values
-- Returns the number of actions that history did not hold yet.
if ARGV[3] ~= '1' and redis.call('EXISTS', 'epoch') == 0 then
  return redis.error_reply('NOEPOCH Redis holds no key epoch: run `oxygenrec restore`')
end
local kept = tonumber(ARGV[1])
local marker_ms = ARGV[2]
local fresh = 0
for at = 4, #ARGV, 7 do
  local user, score = ARGV[at + 1], ARGV[at + 2]
  local history, marker = 'history:' .. user, 'erased:' .. user
  if ARGV[at] == 'e' then
    redis.call('DEL', history)
    if redis.call('GET', marker) ~= score then -- else the edge applied it: the profile is newer
      redis.call('DEL', 'profile:' .. user)
    end
    redis.call('SET', marker, score, 'PX', marker_ms)
  else
    local erased = redis.call('GET', marker)
    if not erased or tonumber(score) > tonumber(erased) then
      local member = ARGV[at + 3]
      if redis.call('ZADD', history, score, member) == 1 then
        local beyond = redis.call('ZCARD', history) - kept
        if beyond > 0 then
          redis.call('ZREMRANGEBYRANK', history, 0, beyond - 1)
        end
        -- Older than all that is kept: it never was in history, a repeat would raise popularity again.
        if beyond <= 0 or redis.call('ZSCORE', history, member) then
          fresh = fresh + 1
          if ARGV[at + 6] ~= '' and ARGV[at + 4] ~= '0' then
            redis.call('ZINCRBY', 'popular:' .. ARGV[at + 5], ARGV[at + 4], ARGV[at + 6])
          end
        end
      end
    end
  end
end
return fresh
