-- The door's recording, inside Envoy: one line of JSON a call, in the log before the answer leaves.
--
-- Envoy's own access log is written by another thread, after the answer: a kill in between lost answered predictions. So the line is
-- written here, by the thread that holds the answer back, with one write(2) to a file opened for appending: what the kernel has taken
-- survives the process. Each line opens the file anew, so that a rename is all that a rotation takes.
--
-- Members stand in a fixed order, `grpc_status` first: the recorder finds a line's beginning by it.
-- What a handle gave out is void after the script has waited for a body or trailers; it is asked for again.

local KEPT, HEAD, LOG = @KEPT@, @HEAD@, @LOG@

local function escaped(character)
  return string.format("\\u%04x", character:byte())
end

-- Printable ASCII without the quotation mark and the backslash stays as it is.
local function text(value)
  if value == nil then return "null" end
  return '"' .. value:gsub('[^ !#-Z%[%]^-~]', escaped) .. '"'
end

local function now(handle)
  return tonumber(handle:timestampString(EnvoyTimestampResolution.MICROSECOND))
end

local function moment(microseconds)
  local seconds = math.floor(microseconds / 1000000)
  return os.date("!%Y-%m-%dT%H:%M:%S", seconds) .. string.format(".%06dZ", microseconds - seconds * 1000000)
end

-- `"request":…,"request_bytes":…`: whole, or of a longer body its beginning.
local function bytes(handle, name, body)
  local size = body and body:length() or nil
  local kept = size and '"' .. handle:base64Escape(body:getBytes(0, size <= KEPT and size or HEAD)) .. '"' or "null"
  return '"' .. name .. '":' .. kept .. ',"' .. name .. '_bytes":' .. (size or "null")
end

local function write(line)
  local log, problem = io.open(LOG, "ab")
  if not log then return problem end
  log:setvbuf("no")
  local written
  written, problem = log:write(line)
  log:close()
  return not written and problem or nil
end

function envoy_on_request(handle)
  local headers, began = handle:headers(), now(handle)
  local meta = handle:streamInfo():dynamicMetadata()
  meta:set("prediction", "began", tostring(began))
  meta:set("prediction", "head", string.format(
    '"id":%s,"time":%s,"path":%s,"traceparent":%s,"request_encoding":%s,"request_header_length":%s',
    text(headers:get("x-penstock-prediction")), text(moment(began)), text(headers:get(":path")), text(headers:get("traceparent")),
    text(headers:get("content-encoding") or headers:get("grpc-encoding")), text(headers:get("inference-header-content-length"))))
  local body = handle:body()
  handle:streamInfo():dynamicMetadata():set("prediction", "request", bytes(handle, "request", body))
end

-- Triton says 500 to JSON that is none, or does not fit its shape. It is the client's mistake.
local function is_clients_mistake(status, body)
  if status ~= "500" or not body then return false end
  local said = body:getBytes(0, math.min(body:length(), HEAD))
  return said:find('"error":"Unable to parse ', 1, true) ~= nil or said:find('"error":"failed to parse ', 1, true) ~= nil
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
  if is_clients_mistake(status, body) then
    status = "400"
    handle:headers():replace(":status", status)
  end
  local response = bytes(handle, "response", body)
  local trailers = handle:trailers()
  if trailers then grpc_status = trailers:get("grpc-status") or grpc_status end
  local meta = handle:streamInfo():dynamicMetadata():get("prediction") or {}
  local began = tonumber(meta.began) or now(handle)
  local problem = write(string.format(
    '{"grpc_status":%s,"status":%s,"protocol":"%s","milliseconds":%.3f,%s,%s,%s,"response_encoding":%s,"response_header_length":%s}\n',
    tonumber(grpc_status) or "null", tonumber(status) or "null", over_grpc and "grpc" or "http", (now(handle) - began) / 1000,
    meta.head or '"id":null', meta.request or '"request":null,"request_bytes":null', response, text(encoding), text(header_length)))
  if problem then
    handle:logErr("a prediction is not recorded: " .. problem)
    local predicted = over_grpc and grpc_status == "0" or not over_grpc and status == "200"
    if predicted and handle:metadata():get("required") then withhold(handle, over_grpc, problem) end
  end
end
