#!/usr/bin/env node
'use strict';
// A worker for Node.js 16 and later, without any package: the part of
// BridgeService (proto/snakepit_bridge.proto) that a pool needs, on node:http2.
//
// --adapter FILE names a module whose functions are tools:
//   module.exports = {double: ({value}) => 2 * value, ...}
// A tool gets its arguments as an object and returns a value, or a promise of
// one, that JSON can hold.

const fs = require('node:fs');
const http2 = require('node:http2');
const os = require('node:os');
const path = require('node:path');

const SERVICE = '/snakepit.bridge.BridgeService/';
const ANY_URL = 'type.googleapis.com/google.protobuf.StringValue';
// Against a sender without end. A JSON text has less, for V8's strings are no longer.
const MAX_MESSAGE = 1024 * 1024 * 1024;
const STATUS = {INVALID_ARGUMENT: 3, RESOURCE_EXHAUSTED: 8, UNIMPLEMENTED: 12, INTERNAL: 13};

class StatusError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// ---- protobuf -------------------------------------------------------------

class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  more() {
    return this.at < this.bytes.length;
  }

  // Lengths and field numbers only: what is larger is refused.
  varint() {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      if (!this.more()) break;
      const byte = this.bytes[this.at++];
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw new StatusError(STATUS.INVALID_ARGUMENT, 'malformed varint');
  }

  take(length) {
    if (length > this.bytes.length - this.at) {
      throw new StatusError(STATUS.INVALID_ARGUMENT, 'message is cut off');
    }
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }

  // The next field as [number, bytes]; null for those that are not bytes.
  field() {
    const tag = this.varint();
    const number = Math.floor(tag / 8);
    switch (tag % 8) {
      case 0:
        this.varint();
        return [number, null];
      case 1:
        this.take(8);
        return [number, null];
      case 2:
        return [number, this.take(this.varint())];
      case 5:
        this.take(4);
        return [number, null];
      default:
        throw new StatusError(STATUS.INVALID_ARGUMENT, 'malformed field');
    }
  }
}

function eachField(bytes, visit) {
  const reader = new Reader(bytes);
  while (reader.more()) {
    const [number, value] = reader.field();
    if (value !== null) visit(number, value);
  }
}

function fields(bytes) {
  const found = {};
  eachField(bytes, (number, value) => {
    found[number] = value;
  });
  return found;
}

function text(bytes) {
  return bytes === undefined ? '' : bytes.toString('utf8');
}

function varint(value) {
  const bytes = [];
  while (value >= 0x80) {
    bytes.push((value % 0x80) | 0x80);
    value = Math.floor(value / 0x80);
  }
  bytes.push(value);
  return Buffer.from(bytes);
}

function bytesField(number, value) {
  const bytes = Buffer.isBuffer(value) ? value : Buffer.from(value, 'utf8');
  return Buffer.concat([varint(number * 8 + 2), varint(bytes.length), bytes]);
}

function trueField(number) {
  return Buffer.concat([varint(number * 8), varint(1)]);
}

// ---- messages -------------------------------------------------------------

function parseRequest(bytes) {
  const request = {session: '', tool: '', args: {}};
  eachField(bytes, (number, value) => {
    if (number === 1) request.session = text(value);
    else if (number === 2) request.tool = text(value);
    else if (number === 3) parameter(request.args, fields(value));
    else if (number === 6) {
      const entry = fields(value);
      define(request.args, text(entry[1]), entry[2] || Buffer.alloc(0));
    }
  });
  return request;
}

function parameter(args, entry) {
  const json = text(fields(entry[2] || Buffer.alloc(0))[2]);
  let value;
  try {
    value = JSON.parse(json);
  } catch (error) {
    throw new StatusError(STATUS.INVALID_ARGUMENT, `parameter ${text(entry[1])}: ${error.message}`);
  }
  define(args, text(entry[1]), value);
}

// Also for names like __proto__.
function define(args, name, value) {
  Object.defineProperty(args, name, {value, enumerable: true, writable: true, configurable: true});
}

function succeeded(value) {
  if (Buffer.isBuffer(value) || value instanceof Uint8Array) {
    return Buffer.concat([trueField(1), bytesField(6, Buffer.from(value))]);
  }
  const json = JSON.stringify(value === undefined ? null : value);
  if (json === undefined) throw new TypeError('the result has no form in JSON');
  const any = Buffer.concat([bytesField(1, ANY_URL), bytesField(2, json)]);
  return Buffer.concat([trueField(1), bytesField(2, any)]);
}

function failed(error, request) {
  const known = error instanceof Error;
  const stack = known && error.stack ? error.stack : '';
  const info = {
    type: known ? error.name : 'Error',
    message: known ? error.message : String(error),
    stacktrace: stack.split('\n').map((line) => line + '\n'),
    traceback: stack,
    context: {tool_name: request.tool, session_id: request.session},
  };
  return bytesField(3, JSON.stringify(info));
}

// ---- tools ----------------------------------------------------------------

class ValueError extends Error {
  get name() {
    return 'ValueError';
  }
}

function number(args, name) {
  if (typeof args[name] !== 'number') throw new TypeError(`${name} is a number`);
  return args[name];
}

const OPERATIONS = {
  add: (args) => number(args, 'a') + number(args, 'b'),
  subtract: (args) => number(args, 'a') - number(args, 'b'),
  multiply: (args) => number(args, 'a') * number(args, 'b'),
  divide(args) {
    if (number(args, 'b') === 0) throw new ValueError('division by zero');
    return number(args, 'a') / args.b;
  },
  power: (args) => number(args, 'a') ** number(args, 'b'),
  sqrt(args) {
    if (number(args, 'a') < 0) throw new ValueError('square root of a negative number');
    return Math.sqrt(args.a);
  },
};

const BUILT_IN = {
  ping: () => ({status: 'pong', timestamp: Date.now()}),
  echo: (args) => ({echoed: args, timestamp: Date.now()}),
  compute(args) {
    if (!Object.prototype.hasOwnProperty.call(OPERATIONS, args.operation)) {
      throw new ValueError(`operation is one of ${Object.keys(OPERATIONS).join(', ')}`);
    }
    const result = OPERATIONS[args.operation](args);
    if (!Number.isFinite(result)) throw new ValueError('the result is not a finite number');
    return {operation: args.operation, result};
  },
  info: () => ({
    runtime: 'node',
    version: process.version,
    platform: `${os.platform()}-${os.arch()}`,
    pid: process.pid,
    uptime_s: process.uptime(),
    memory: process.memoryUsage(),
    tools: [...tools.keys()],
  }),
  random(args) {
    const type = args.type === undefined ? 'uniform' : args.type;
    const min = args.min === undefined ? 0 : number(args, 'min');
    const max = args.max === undefined ? (type === 'integer' ? 100 : 1) : number(args, 'max');
    if (!(min <= max)) throw new ValueError('min is not greater than max');
    if (type === 'uniform') return {type, value: min + Math.random() * (max - min)};
    if (type !== 'integer') throw new ValueError('type is uniform or integer');
    const [low, high] = [Math.ceil(min), Math.floor(max)];
    if (low > high) throw new ValueError('there is no integer from min to max');
    return {type, value: low + Math.floor(Math.random() * (high - low + 1))};
  },
};

// A Map: a tool is never something that an object inherits.
const tools = new Map(Object.entries(BUILT_IN));

async function execute(bytes) {
  const request = parseRequest(bytes);
  const tool = tools.get(request.tool);
  try {
    if (tool === undefined) throw new ValueError(`there is no tool ${request.tool}`);
    return succeeded(await tool(request.args, {session_id: request.session}));
  } catch (error) {
    return failed(error, request);
  }
}

const METHODS = {
  Ping: async (bytes) => bytesField(1, `Pong: ${text(fields(bytes)[1])}`),
  InitializeSession: async () => trueField(1),
  CleanupSession: async () => trueField(1),
  Heartbeat: async () => trueField(2),
  ExecuteTool: execute,
};

// ---- gRPC -----------------------------------------------------------------

function unframed(body) {
  if (body.length < 5 || body.readUInt32BE(1) !== body.length - 5) {
    throw new StatusError(STATUS.INTERNAL, 'one message was expected');
  }
  if (body[0] !== 0) throw new StatusError(STATUS.UNIMPLEMENTED, 'messages are not compressed');
  return body.subarray(5);
}

function framed(message) {
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}

// Only printable ASCII may stand in a header.
function escaped(message) {
  return encodeURIComponent(message).replace(/%20/g, ' ');
}

function refuse(stream, status, message) {
  if (stream.destroyed || stream.headersSent) return;
  const headers = {':status': 200, 'content-type': 'application/grpc'};
  headers['grpc-status'] = String(status);
  headers['grpc-message'] = escaped(message);
  stream.respond(headers, {endStream: true});
}

async function answer(stream, name, body) {
  try {
    if (!Object.prototype.hasOwnProperty.call(METHODS, name)) {
      throw new StatusError(STATUS.UNIMPLEMENTED, `this worker has no ${name}`);
    }
    const reply = framed(await METHODS[name](unframed(body)));
    if (stream.destroyed) return;
    stream.on('wantTrailers', () => stream.sendTrailers({'grpc-status': '0'}));
    stream.respond(
      {':status': 200, 'content-type': 'application/grpc'},
      {waitForTrailers: true},
    );
    stream.end(reply);
  } catch (error) {
    refuse(stream, error.status || STATUS.INTERNAL, error.message);
  }
}

function serve(stream, headers) {
  const pathname = headers[':path'] || '';
  const name = pathname.startsWith(SERVICE) ? pathname.slice(SERVICE.length) : pathname;
  const parts = [];
  let size = 0;
  stream.on('error', () => {});
  stream.on('data', (part) => {
    size += part.length;
    if (size > MAX_MESSAGE) {
      parts.length = 0;
      refuse(stream, STATUS.RESOURCE_EXHAUSTED, `a message has at most ${MAX_MESSAGE} bytes`);
    } else {
      parts.push(part);
    }
  });
  stream.on('end', () => {
    if (size <= MAX_MESSAGE) answer(stream, name, Buffer.concat(parts));
  });
}

// ---- the process ----------------------------------------------------------

function option(name) {
  const at = process.argv.indexOf(name);
  return at < 0 ? undefined : process.argv[at + 1];
}

// The file is complete when it has its name.
function ready(port) {
  const file = process.env.SNAKEPIT_READY_FILE;
  if (!file) return;
  fs.writeFileSync(`${file}.tmp`, String(port));
  fs.renameSync(`${file}.tmp`, file);
}

function main() {
  const adapter = option('--adapter');
  if (adapter) {
    for (const [name, tool] of Object.entries(require(path.resolve(adapter)))) {
      if (typeof tool === 'function') tools.set(name, tool);
    }
  }

  const server = http2.createServer({settings: {initialWindowSize: 1024 * 1024}});
  server.on('stream', serve);
  server.on('sessionError', () => {});
  server.listen(Number(option('--port') || 0), '127.0.0.1', () => ready(server.address().port));
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(0));
}

main();
