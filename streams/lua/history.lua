-- A batch of the router, or its part in one bucket: behaviour into `history:{user}`, popularity into
-- `popular:{scenario}`, erasures in order. KEYS[1] is the bucket's `epoch`; a cluster is told all other keys too,
-- so that it refuses the call, rather than half of it, while it moves the bucket to another master.
-- ARGV[1] kept actions a user, ARGV[2] how long the marker of an erasure stays (ms), ARGV[3] 1 to write
-- also while the epoch is missing (a restore, an erasure at the edge), ARGV[4] what the bucket's keys begin
-- with; then seven values an entry:
--   "a", user, score (event_time_ms), member, weight (0 raises nothing), scenario, item key ("" for none)
--   "c", as "a": an action whose user's clicks on its item are asked for
--   "e", user, score (event_time_ms), and four empty values
-- Returns the number of actions that history did not hold yet; behind it, for each "c" in order, how many
-- clicks on its item history holds up to its time, itself among them (0: it was refused). A repeat counts alike.
if ARGV[3] ~= '1' and redis.call('EXISTS', KEYS[1]) == 0 then
  return redis.error_reply('NOEPOCH Redis holds no key ' .. KEYS[1] .. ': run `oxygenrec restore`')
end
local kept = tonumber(ARGV[1])
local marker_ms = ARGV[2]
local tag = ARGV[4]
local history_of, erased_of, popular_in = tag .. 'history:', tag .. 'erased:', tag .. 'popular:'
local fresh = 0
local answer = {0}

-- Quotation marks inside a member's texts are escaped: a query cannot pass for a field.
local function clicks_on(history, item, score)
  local clicks, field = 0, '"item_key":' .. item .. '[,}]'
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', history, '-inf', score)) do
    if string.find(member, '"action":"click"', 1, true) and string.find(member, field) then
      clicks = clicks + 1
    end
  end
  return clicks
end

for at = 5, #ARGV, 7 do
  local user, score = ARGV[at + 1], ARGV[at + 2]
  local history, marker = history_of .. user, erased_of .. user
  if ARGV[at] == 'e' then
    local erased = redis.call('GET', marker)
    if not erased or tonumber(erased) <= tonumber(score) then -- else a later one has done all this
      redis.call('DEL', history)
      if erased ~= score then -- else the edge applied it: the profile is newer
        redis.call('DEL', tag .. 'profile:' .. user)
      end
      redis.call('SET', marker, score, 'PX', marker_ms)
    end
  else
    local erased = redis.call('GET', marker)
    local clicks = 0
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
            redis.call('ZINCRBY', popular_in .. ARGV[at + 5], ARGV[at + 4], ARGV[at + 6])
          end
        end
      end
      if ARGV[at] == 'c' then
        clicks = clicks_on(history, ARGV[at + 6], score)
      end
    end
    if ARGV[at] == 'c' then
      answer[#answer + 1] = clicks
    end
  end
end
answer[1] = fresh
return answer
