-- wrk sends prepared requests in turn: FOLDER/000.http and so on. Arguments: FOLDER COUNT [stamp]
-- With `stamp` the rate ends with the last answer, not with the clock: the batch under way at the end counts for nothing.
local ffi = require("ffi")
ffi.cdef [[
typedef struct { long seconds; long nanoseconds; } moment;
int clock_gettime(int clock, moment *now);
]]
local moment = ffi.new("moment")
local function now()
   ffi.C.clock_gettime(1, moment)
   return tonumber(moment.seconds) + tonumber(moment.nanoseconds) / 1e9
end

local threads = {}
function setup(thread)
   table.insert(threads, thread)
end

local prepared, count, turn = {}, 0, 0
function init(args)
   count = tonumber(args[2])
   for i = 0, count - 1 do
      local file = assert(io.open(string.format("%s/%03d.http", args[1], i), "rb"))
      prepared[i] = file:read("*a")
      file:close()
   end
   if args[3] == "stamp" then
      response = function()
         last = now()
      end
   end
   first = now()
   last = 0
end

function request()
   local one = prepared[turn]
   turn = (turn + 1) % count
   return one
end

function done(summary, latency, requests)
   local failed = summary.errors
   local seconds = summary.duration / 1e6
   local last = threads[1]:get("last")
   if last > 0 then
      seconds = last - threads[1]:get("first")
   end
   io.write(string.format(
      '{"seconds": %.6f, "answers": %d, "refused": %d, "broken": %d, "p50": %.3f, "p99": %.3f}\n',
      seconds, summary.requests, failed.status, failed.connect + failed.read + failed.write + failed.timeout,
      latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
