-- The door's recording, inside Envoy: one line of JSON a call, in the log before the answer leaves.
--
-- Envoy's own access log is written by another thread, after the answer: a kill in between lost answered predictions. So the line is
-- written here, by the thread that holds the answer back, with one write(2) to a file opened for appending: what the kernel has taken
-- survives the process. The file is opened anew when it has been open for REOPEN seconds, so that a rename is all that a rotation takes.
--
-- Members stand in a fixed order, `grpc_status` first: the recorder finds a line's beginning by it.
-- What a handle gave out is void after the script has waited for a body or trailers; it is asked for again.

local ffi = require("ffi")
ffi.cdef[[
  typedef struct { long seconds, nanoseconds; } moment_t;
  int clock_gettime(int clock, moment_t *now);
  int open(const char *path, int flags, ...);
  long write(int file, const void *data, size_t length);
  int close(int file);
  char *strerror(int number);
]]
local C, REOPEN = ffi.C, 0.1
local APPENDING = 0x80441  -- O_WRONLY, O_CREAT, O_APPEND, O_CLOEXEC
local PRIVATE = ffi.new("int", 384)  -- 0600

local KEPT, HEAD, LOG, EVENTS, READ, LARGE = @KEPT@, @HEAD@, @LOG@, @EVENTS@, @READ@, @LARGE@
local FIELDS, BOUND = 64, 1024
local WIDTHS = {BOOL = 1, UINT8 = 1, UINT16 = 2, UINT32 = 4, UINT64 = 8, INT8 = 1, INT16 = 2, INT32 = 4, INT64 = 8, FP16 = 2, FP32 = 4, FP64 = 8}

local function escaped(character)
  return string.format("\\u%04x", character:byte())
end

-- Printable ASCII without the quotation mark and the backslash stays as it is. A value that is too long to mean anything is cut, with
-- a mark at its end that makes it none that does.
local function text(value)
  if value == nil then return "null" end
  if #value > BOUND then value = value:sub(1, BOUND) .. "~" end
  return '"' .. value:gsub('[^ !#-Z%[%]^-~]', escaped) .. '"'
end

-- In microseconds since the epoch.
local clock = ffi.new("moment_t")
local function now()
  C.clock_gettime(0, clock)
  return tonumber(clock.seconds) * 1000000 + math.floor(tonumber(clock.nanoseconds) / 1000)
end

local function moment(microseconds)
  local seconds = math.floor(microseconds / 1000000)
  return os.date("!%Y-%m-%dT%H:%M:%S", seconds) .. string.format(".%06dZ", microseconds - seconds * 1000000)
end

-- Protobuf's number at `at`, and where it ends.
local function varint(data, at)
  local value, scale = 0, 1
  for _ = 1, 10 do
    local byte = data:byte(at)
    if not byte then return nil end
    at = at + 1
    if byte < 128 then return value + byte * scale, at end
    value, scale = value + (byte - 128) * scale, scale * 128
  end
end

-- Number of the field at `at`, and where its bytes begin and end; nil where it is no field of bytes.
local function field(data, at)
  local key, length
  key, at = varint(data, at)
  if not key or key % 8 ~= 2 then return nil end
  length, at = varint(data, at)
  if not length then return nil end
  return (key - 2) / 8, at, at + length
end

-- Datatype of an input, and how many values its shape has; nil where it is not plain.
local function described(data)
  local at, stop, datatype, count = 1, #data + 1, nil, 1
  while at < stop do
    local number, first, next = field(data, at)
    if not number or next > stop then return nil end
    if number == 2 then
      datatype = data:sub(first, next - 1)
    elseif number == 3 then
      while first < next do
        local size
        size, first = varint(data, first)
        if not size or first > next or size < 1 or size > 2147483647 then return nil end
        count = count * size
      end
    elseif number ~= 1 then
      return nil
    end
    at = next
  end
  return datatype, count
end

-- Whether a message has nothing but the fields `numbers`, each once and in order.
local function consists_of(data, numbers)
  local at = 1
  for _, wanted in ipairs(numbers) do
    local number, _, next = field(data, at)
    if number ~= wanted then return false end
    at = next
  end
  return at == #data + 1
end

-- The only parameter that is plain: the events behind a prediction by entity.
local function is_events(data)
  return consists_of(data, {1, 2}) and data:sub(3, 2 + data:byte(2)) == EVENTS
end

-- Whether a call over gRPC is of the form that Triton and the record read alike: one message, not compressed; raw contents as long as
-- its shapes say; nothing that changes the form of the answer. Everything else is read by the gateway first, which says what is wrong.
local function is_plain(body, whole)
  local size = body:length()
  local function get(first, length)
    if whole then return whole:sub(first + 1, first + length) end
    return body:getBytes(first, math.min(length, size - first))
  end
  if size < 5 then return false end
  local flag, a, b, c, d = get(0, 5):byte(1, 5)
  if flag ~= 0 or ((a * 256 + b) * 256 + c) * 256 + d ~= size - 5 then return false end
  local at, types, counts, raws = 5, {}, {}, {}
  for _ = 1, FIELDS do
    if at == size then break end
    local before = whole and 0 or at  -- of a long body a piece is looked at, of a short one all
    local number, first, next = field(whole or get(at, 20), at - before + 1)
    if not number then return false end
    first, next = before + first - 1, before + next - 1
    if next > size then return false end
    if number == 7 then
      raws[#raws + 1] = {first, next}
    elseif next - first > HEAD then
      return false
    elseif number == 4 then
      if not is_events(get(first, next - first)) then return false end
    elseif number == 5 then
      local datatype, count = described(get(first, next - first))
      if not datatype then return false end
      types[#types + 1], counts[#counts + 1] = datatype, count
    elseif number == 6 then
      if not consists_of(get(first, next - first), {1}) then return false end
    elseif number > 3 then
      return false
    end
    at = next
  end
  if at ~= size or #types == 0 or #raws ~= #types then return false end
  for index, raw in ipairs(raws) do
    local length, width = raw[2] - raw[1], WIDTHS[types[index]]
    if width then
      if length ~= counts[index] * width then return false end
    elseif types[index] ~= "BYTES" or length < 4 * counts[index] then
      return false
    elseif not whole or whole:sub(raw[1] + 1, raw[2]):find("[\128-\255]") then
      return false  -- a text that is perhaps not UTF-8
    end
  end
  return true
end

-- `"request":…,"request_bytes":…`: whole, or of a longer body its beginning.
local function bytes(handle, name, body, whole)
  local size = body and body:length() or nil
  local kept = size and '"' .. handle:base64Escape(whole or body:getBytes(0, HEAD)) .. '"' or "null"
  return '"' .. name .. '":' .. kept .. ',"' .. name .. '_bytes":' .. (size or "null")
end

-- The bytes of a body, unless it is too long to be kept.
local function short(body)
  local size = body and body:length() or KEPT + 1
  return size <= KEPT and body:getBytes(0, size) or nil
end

local function reason()
  return ffi.string(C.strerror(ffi.errno()))
end

local log, opened = -1, 0
local function leave_log()
  if log >= 0 then C.close(log) end
  log = -1
end

-- Why the line is not in the log as a whole; nil when it is.
local function write(line, at)
  if at < opened or at - opened > REOPEN * 1000000 then leave_log() end
  if log < 0 then
    log, opened = C.open(LOG, APPENDING, PRIVATE), at
    if log < 0 then return LOG .. ": " .. reason() end
  end
  local written = tonumber(C.write(log, line, #line))
  if written == #line then return nil end
  local problem = written < 0 and reason() or "only a part of the line was written"
  leave_log()
  return LOG .. ": " .. problem
end

function envoy_on_request(handle)
  local headers, began = handle:headers(), now()
  local path = headers:get(":path")
  local over_grpc = path:sub(1, 4) ~= "/v2/"
  -- Its beginning in 16 digits comes first: as a number's text it would be rounded to a tenth of a millisecond.
  handle:streamInfo():dynamicMetadata():set("prediction", "head", string.format(
    '%016d"protocol":"%s","id":%s,"time":%s,"path":%s,"traceparent":%s,"request_encoding":%s,"request_header_length":%s',
    began, over_grpc and "grpc" or "http", text(headers:get("x-penstock-prediction")), text(moment(began)), text(path), text(headers:get("traceparent")),
    text(headers:get(over_grpc and "grpc-encoding" or "content-encoding")), text(headers:get("inference-header-content-length"))))
  local body = handle:body()
  local whole = short(body)
  local unread, large = over_grpc and body and not is_plain(body, whole), body and not whole
  if unread then
    local packed = body:getBytes(0, 1):byte() ~= 0
    handle:headers():replace(READ, packed and handle:headers():get("grpc-encoding") or "identity")
  end
  if large then handle:headers():replace(LARGE, "yes") end
  if unread or large then handle:clearRouteCache() end
  handle:streamInfo():dynamicMetadata():set("prediction", "request", bytes(handle, "request", body, whole))
end

-- The answer becomes UNAVAILABLE, or 503: nobody may have a prediction that is not recorded.
local function withhold(handle, over_grpc, why)
  local said = "the prediction cannot be recorded: " .. why
  local body = handle:body()
  if over_grpc then
    if body then body:setBytes("") end
    local trailers = handle:trailers()
    trailers:replace("grpc-status", "14")
    trailers:replace("grpc-message", said)
  else
    local size = body:setBytes('{"error":"' .. said .. '"}')
    handle:headers():replace(":status", "503")
    handle:headers():replace("content-length", tostring(size))
    handle:headers():remove("content-encoding")
    handle:headers():remove("inference-header-content-length")
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local status, grpc_status = headers:get(":status"), headers:get("grpc-status")
  local encoding = headers:get("content-encoding") or headers:get("grpc-encoding")
  local header_length = headers:get("inference-header-content-length")
  local over_grpc = (headers:get("content-type") or ""):find("application/grpc", 1, true) == 1
  local body = handle:body()
  local response = bytes(handle, "response", body, short(body))
  local trailers = handle:trailers()
  if trailers then grpc_status = trailers:get("grpc-status") or grpc_status end
  local meta = handle:streamInfo():dynamicMetadata():get("prediction") or {}
  local ended, head = now(), meta.head
  local problem = write(string.format(
    '{"grpc_status":%s,"status":%s,"milliseconds":%.3f,%s,%s,%s,"response_encoding":%s,"response_header_length":%s}\n',
    tonumber(grpc_status) or "null", tonumber(status) or "null", head and (ended - tonumber(head:sub(1, 16))) / 1000 or 0,
    head and head:sub(17) or '"id":null', meta.request or '"request":null,"request_bytes":null', response, text(encoding), text(header_length)), ended)
  if problem then
    handle:logErr("a prediction is not recorded: " .. problem)
    local predicted = over_grpc and grpc_status == "0" or not over_grpc and status == "200"
    if predicted and handle:metadata():get("required") then withhold(handle, over_grpc, problem) end
  end
end
