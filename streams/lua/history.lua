-- A batch of the router, or its part in one bucket: behaviour into `history:{user}`, popularity into
-- `popular:{scenario}`, erasures in order. KEYS[1] is the bucket's `epoch`; a cluster is told all other keys too,
-- so that it refuses the call, rather than half of it, while it moves the bucket to another master.
-- ARGV[1] kept actions a user, ARGV[2] how long the marker of an erasure stays (ms), ARGV[3] 1 to write
-- also while the epoch is missing (a restore, an erasure at the edge), ARGV[4] what the bucket's keys begin
-- with, ARGV[5] the entries, one MessagePack array (a third of what as many arguments cost), seven values an entry:
--   "a", user, score (event_time_ms), member, weight (0 raises nothing), scenario, item key (text, "" for none)
--   "c", as "a": an action whose user's clicks on its item are asked for
--   "e", user, score (event_time_ms), "", 0, "", ""
-- Returns the number of actions that history did not hold yet; behind it, for each "c" in order, how many
-- clicks on its item history holds up to its time, itself among them (0: it was refused). A repeat counts alike.
if ARGV[3] ~= '1' and redis.call('EXISTS', KEYS[1]) == 0 then
  return redis.error_reply('NOEPOCH Redis holds no key ' .. KEYS[1] .. ': run `oxygenrec restore`')
end
local VALUES, AT_ONCE = 7, 1000 -- `unpack` puts its values on Lua's stack, which ends at 8,000
local kept = tonumber(ARGV[1])
local marker_ms = ARGV[2]
local tag = ARGV[4]
local entries = cmsgpack.unpack(ARGV[5])
local history_of, erased_of, popular_in = tag .. 'history:', tag .. 'erased:', tag .. 'popular:'
local fresh = 0
local answer = {0}

-- When each user was erased, or false: one MGET costs a third of a GET an entry.
local function erasures()
  local users, markers, found = {}, {}, {}
  for at = 2, #entries, VALUES do
    local user = entries[at]
    if found[user] == nil then
      found[user] = false
      users[#users + 1] = user
      markers[#markers + 1] = erased_of .. user
    end
  end
  for first = 1, #markers, AT_ONCE do
    local last = math.min(first + AT_ONCE - 1, #markers)
    for number, marker in ipairs(redis.call('MGET', unpack(markers, first, last))) do
      found[users[first + number - 1]] = marker and tonumber(marker)
    end
  end
  return found
end

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

local erased = erasures()
local raised = {} -- by scenario and item: what this batch adds to popularity

local function raise(scenario, item, weight)
  local items = raised[scenario]
  if not items then
    items = {}
    raised[scenario] = items
  end
  items[item] = (items[item] or 0) + weight
end

for at = 1, #entries, VALUES do
  local kind, user, score = entries[at], entries[at + 1], entries[at + 2]
  local history = history_of .. user
  local gone = erased[user]
  if kind == 'e' then
    if not gone or gone <= score then -- else a later one has done all this
      redis.call('DEL', history)
      if gone ~= score then -- else the edge applied it: the profile is newer
        redis.call('DEL', tag .. 'profile:' .. user)
      end
      redis.call('SET', erased_of .. user, score, 'PX', marker_ms)
      erased[user] = score
    end
  else
    local clicks = 0
    if not gone or score > gone then
      local member = entries[at + 3]
      if redis.call('ZADD', history, score, member) == 1 then
        local beyond = redis.call('ZCARD', history) - kept
        if beyond > 0 then
          redis.call('ZREMRANGEBYRANK', history, 0, beyond - 1)
        end
        -- Older than all that is kept: it never was in history, a repeat would raise popularity again.
        if beyond <= 0 or redis.call('ZSCORE', history, member) then
          fresh = fresh + 1
          if entries[at + 6] ~= '' and entries[at + 4] ~= 0 then
            raise(entries[at + 5], entries[at + 6], entries[at + 4])
          end
        end
      end
      if kind == 'c' then
        clicks = clicks_on(history, entries[at + 6], score)
      end
    end
    if kind == 'c' then
      answer[#answer + 1] = clicks
    end
  end
end
for scenario, items in pairs(raised) do
  for item, weight in pairs(items) do
    redis.call('ZINCRBY', popular_in .. scenario, weight, item)
  end
end
answer[1] = fresh
return answer
