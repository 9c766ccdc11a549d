defmodule Snakepit.Native do
  @moduledoc false
  # The functions of snakepit_nif.so and nothing else, all of them here: a library is
  # loaded into one module. What they send:
  #
  #   submit/9        {ref, {:ok, bytes}}            unary: an ExecuteToolResponse
  #                   {ref, {:chunk, bytes}}         stream: a ToolChunk each
  #                   {ref, {:want, n}}              inputs: so many more may be sent
  #                   {ref, :done}                   stream: ended well
  #                   {ref, {:error, reason}}        the end, either kind
  #   rpc_unary/6     {ref, {:ok, bytes}} | {ref, {:error, reason}}
  #   rpc_stream/6, rpc_bidi/6
  #                   {ref, {:chunk, bytes}}, then {ref, :done} | {ref, {:error, reason}}
  #
  # A call ends with exactly one {:ok, _}, :done or {:error, _}. Reasons:
  #
  #   :queue_timeout | :timeout | :session_worker_unavailable | :pool_closed
  #   {:worker_exit, term}            the term given to slot_remove/2, or
  #                                   :noproc when the worker process just died
  #   {:grpc, status, message}        a gRPC status (integer) and its text
  #
  # submit/9 and call_await/1 may have the end at once and return it instead of a
  # message: `{:done, decoded}` is what decode_response/1 would say, `{:ended, end}`
  # what the message would hold.
  #
  # To the worker process of a slot:
  #
  #   {:snakepit_slot, :suspect, why}  the connection broke, or a cancelled call
  #                                    did not end within the grace time: the
  #                                    slot takes nothing more and wants to be
  #                                    replaced
  #   {:snakepit_slot, :served, n}     see slot_watch/3
  #   {:snakepit_slot, :full, n}       see slot_watch/3
  # To the process that made the pool:
  #
  #   {:snakepit_session, pool_name, session_id, worker_id}  a session was assigned
  #   {:snakepit_pool, pool_name, :short}                    see pool_watch/1

  @on_load :load

  @type handle :: reference
  @type reason :: term
  @type worker :: {worker_id :: String.t(), pid, :local | :grpc}

  @doc false
  def load do
    path = :filename.join(ebin(), ~c"snakepit_nif")

    # An empty set, because its fields are not the same in every Elixir.
    case :erlang.load_nif(path, MapSet.new()) do
      :ok -> :ok
      {:error, {:reload, _}} -> :ok
      {:error, {kind, text}} -> {:error, {kind, text, path}}
    end
  end

  # What the build makes lies beside the beams: `priv` in the build path is a
  # link into the source tree, and releases copy `ebin` as it is.
  @doc false
  @spec ebin() :: charlist
  def ebin do
    case :code.which(__MODULE__) do
      path when is_list(path) -> :filename.dirname(path)
      _ -> :filename.join(:code.lib_dir(:snakepit), ~c"ebin")
    end
  end

  # ---- pools --------------------------------------------------------------

  @doc """
  A scheduler owned by the caller; closed when that process dies. A session keeps
  its slot until `session_forget/2`; unused for `hold_ms` it does not count as one
  of its slot's any more.
  """
  @spec pool_new(name :: atom, max_queue :: non_neg_integer, hold_ms :: non_neg_integer) ::
          handle
  def pool_new(_name, _max_queue, _hold_ms), do: err!()

  @spec pool_close(handle) :: :ok
  def pool_close(_pool), do: err!()

  @doc "Keys: requests completed cancelled queue_timeouts deadlines saturated slots_lost refused queued running abandoned slots slots_busy slots_available."
  @spec pool_stats(handle) :: %{atom => non_neg_integer}
  def pool_stats(_pool), do: err!()

  @doc """
  Adds a worker: from now on it gets requests. `worker` is its process (the
  slot is removed when that dies), `session` the id sent for calls that have
  none, `metadata` goes into every request. Raises `:pool_closed`, and
  `:transports_mixed` for a worker that does not take the encoding of the pool's
  first one (CBOR where that takes it, else JSON): arguments are encoded before
  a worker is chosen; and `:closed` for a link that has ended. `:avoided`: from its first
  moment, see `slot_set_state/2`.
  """
  @spec slot_add(
          handle,
          worker :: pid,
          worker_id :: String.t(),
          session :: String.t(),
          capacity :: pos_integer,
          channel_or_link :: handle,
          metadata :: [{String.t(), String.t()}],
          :ready | :avoided
        ) :: handle
  def slot_add(pool, worker, worker_id, session, capacity, channel, metadata, state \\ :ready)

  def slot_add(_pool, _worker, _worker_id, _session, _capacity, _channel, _metadata, _state),
    do: err!()

  @doc "Removes it; what runs on it is answered {:worker_exit, reason}."
  @spec slot_remove(handle, reason) :: :ok
  def slot_remove(_slot, _reason), do: err!()

  @doc """
  Only a `:ready` one gets requests; what runs goes on. A `:draining` one stays so. An
  `:avoided` one is `:tainted` while the pool has another that is ready and not avoided,
  and ready while it has none.
  """
  @spec slot_set_state(handle, :ready | :draining | :tainted | :avoided) ::
          :ok | {:error, :not_found}
  def slot_set_state(_slot, _state), do: err!()

  @doc "Requests running on it now."
  @spec slot_load(handle) :: {:ok, non_neg_integer} | {:error, :not_found}
  def slot_load(_slot), do: err!()

  @doc """
  Keys: load, capacity, served (requests that it is done with), sessions (that
  are remembered to have it), idle_ms (since it runs nothing; 0 when it does).
  """
  @spec slot_stats(handle) ::
          {:ok, %{atom => non_neg_integer}} | {:error, :not_found}
  def slot_stats(_slot), do: err!()

  @doc """
  Tells the worker's process once that `served` requests are done (0: does not),
  and, with `full?`, of the next time that its capacity is used up.
  """
  @spec slot_watch(handle, served :: non_neg_integer, full? :: boolean) :: :ok
  def slot_watch(_slot, _served, _full?), do: err!()

  @doc """
  Tells the process that made the pool once, now or later, that a request waits
  for whatever worker comes free.
  """
  @spec pool_watch(handle) :: :ok
  def pool_watch(_pool), do: err!()

  @doc "While it is set, submit/9 is refused with :pool_draining."
  @spec pool_set_draining(handle, boolean) :: :ok
  def pool_set_draining(_pool, _draining?), do: err!()

  @doc "How long a cancelled call may take to end before its worker is suspect; default 5000."
  @spec pool_set_cancel_grace(handle, ms :: non_neg_integer) :: :ok
  def pool_set_cancel_grace(_pool, _ms), do: err!()

  @doc "Gives a session a slot, in place of the one it has."
  @spec session_assign(handle, session :: String.t(), slot :: handle) ::
          :ok | {:error, :not_found}
  def session_assign(_pool, _session, _slot), do: err!()

  @doc "The session has no slot any more; its next call goes to any."
  @spec session_forget(handle, session :: String.t()) :: :ok | {:error, :not_found}
  def session_forget(_pool, _session), do: err!()

  @doc "For how many milliseconds a session has had no call; 0 while it has one."
  @spec session_unused(handle, session :: String.t()) ::
          {:ok, non_neg_integer} | {:error, :not_found}
  def session_unused(_pool, _session), do: err!()

  @doc "The same of at most 256 sessions, in their order; nil for one that is not known."
  @spec sessions_unused(handle, [session :: String.t()]) :: [non_neg_integer | nil]
  def sessions_unused(_pool, _sessions), do: err!()

  # ---- calls --------------------------------------------------------------

  @doc """
  Hands one request to the pool. The answer comes as a message tagged `ref`
  (made by the caller with make_ref/0). The caller's death cancels the call.

  `args` is a map (or keyword list) with text or atom keys; `metadata` and
  `binaries` are lists of pairs of binaries. `queue_ms` bounds the wait for a
  worker, `timeout_ms` the whole call.

  Errors: `:pool_saturated`, `:worker_busy`, `:session_worker_unavailable`,
  `:pool_not_initialized`, `:pool_closed`, `:pool_draining`, and
  `{:encode, path, text}` for arguments that cannot be encoded: `path` is the
  way to the value, `text` says what it is. `{:encode_struct, path}` for a
  struct: Snakepit.Encoder can turn it into plain data first.

  `{:ok, call}`: a handle, or of `:unary` a number, for pool_cancel/2 only.

  With `{:inputs, kind}` the tool may read inputs: it asks for them with
  `{ref, {:want, n}}`, first when it starts to read, and gets them by `call_input/2`
  and `call_input_end/1`. There are never more than 16 asked for and not sent.

  With `{:watched, kind}` the caller is told when a worker gets the call: at once, by
  `{:started, worker, result}`, where `result` is one of the others, with what
  call_segments/1 says behind it where that is the end and there were some, or
  later by `{ref, {:started, worker}}`, before anything else of the call.
  It does not wait for the answer: `call_await/1` does.

  `{:served, kind}` is for who only wants to know which worker it was. It waits as
  without, and may be sent ahead. What is not told at once comes with the answer to a
  unary call: `{ref, {:served, worker, ns, answer}}`, where `ns` is how long ago it was
  sent to that worker. Other calls are told as with `:watched`.
  """
  @spec submit(
          handle,
          reference,
          kind ::
            :unary
            | :stream
            | {:inputs, :unary | :stream}
            | {:watched | :served, :unary | :stream | {:inputs, :unary | :stream}},
          command :: String.t(),
          args :: map | keyword,
          session :: String.t() | nil,
          affinity :: :hint | :strict_queue | :strict_fail_fast,
          times :: {queue_ms :: timeout, timeout_ms :: timeout},
          extra :: {metadata :: list, binaries :: list}
        ) ::
          {:ok, call :: handle | non_neg_integer}
          | {:done,
             {:ok, term} | {:binary, binary, term} | {:tool_error, term} | {:error, reason}}
          | {:ended, {:ok, message} | {:error, reason}}
          | {:started, worker, result :: tuple}
          | {:started, worker, result :: tuple, segments}
          | {:error, reason}
  def submit(_pool, _ref, _kind, _command, _args, _session, _affinity, _times, _extra), do: err!()

  @doc """
  Waits for the answer to a unary call a little, where that may pay, as submit/9 does.
  `:ok`: it is a message, now or later.
  """
  @spec call_await(handle) ::
          :ok
          | {:done,
             {:ok, term} | {:binary, binary, term} | {:tool_error, term} | {:error, reason}}
          | {:ended, {:ok, binary} | {:error, reason}}
  def call_await(_call), do: err!()

  @doc """
  Cancels. `:ok`: what there is of this call is in the mailbox, no further
  message comes. `:ended`: the call had ended by itself, its end is in the
  mailbox or about to be.
  """
  @spec call_cancel(handle) :: :ok | :ended
  def call_cancel(_call), do: err!()

  @doc "The same for a call of `:unary`, by its number."
  @spec pool_cancel(handle, call :: non_neg_integer) :: :ok | :ended
  def pool_cancel(_pool, _call), do: err!()

  @typedoc "How many went and came, how many binaries had none, and the bytes of all; nil for none."
  @type segments :: {non_neg_integer, non_neg_integer, non_neg_integer, non_neg_integer} | nil

  @doc "The segments that went with a call and its inputs so far, and those that came."
  @spec call_segments(handle) :: segments
  def call_segments(_call), do: err!()

  @doc "Allows `n` more chunks to be sent. A stream starts with 16."
  @spec call_credit(handle, pos_integer) :: :ok
  def call_credit(_call, _n), do: err!()

  @doc """
  Sends one input to the tool. `:full`: none is wanted now. `:ended`: the call is
  over or there are no more inputs; the input is dropped. Other errors are those
  of submit/9, and the call goes on.
  """
  @spec call_input(handle, term) :: :ok | {:error, :full | :ended | reason}
  def call_input(_call, _term), do: err!()

  @doc "There are no more inputs. `:full` before the tool has asked for any."
  @spec call_input_end(handle) :: :ok | {:error, :full}
  def call_input_end(_call), do: err!()

  @doc "The worker that got the call, which may be gone; `:not_found` while none has."
  @spec call_worker_id(handle) :: {:ok, String.t()} | {:error, :not_found}
  def call_worker_id(_call), do: err!()

  @typedoc "The bytes of a message, with the binaries that came beside it if there are any."
  @type message :: binary | {binary, [binary]}

  @doc """
  What an ExecuteToolResponse says: `{:ok, term}`, `{:binary, bytes, meta}`
  (binary_result; `meta` is the decoded result or nil),
  `{:tool_error, term}` (error_message: a map when it is JSON, else text), or
  `{:error, {:decode, text}}`.
  """
  @spec decode_response(message) ::
          {:ok, term} | {:binary, binary, term} | {:tool_error, term} | {:error, reason}
  def decode_response(_bytes), do: err!()

  @doc """
  What a ToolChunk says, as the map that stream callbacks get (interop 1.9):
  `"is_final"`, `"_metadata"` when there is any, and the data.
  """
  @spec decode_chunk(message) :: {:ok, map} | {:error, reason}
  def decode_chunk(_bytes), do: err!()

  @doc "JSON as it goes over the wire, for tools and tests."
  @spec json_encode(term) :: {:ok, binary} | {:error, reason}
  def json_encode(_term), do: err!()

  @spec json_decode(binary) :: {:ok, term} | {:error, reason}
  def json_decode(_bytes), do: err!()

  @doc "The same as CBOR."
  @spec cbor_encode(term) :: {:ok, binary} | {:error, reason}
  def cbor_encode(_term), do: err!()

  @spec cbor_decode(message) :: {:ok, term} | {:error, reason}
  def cbor_decode(_bytes), do: err!()

  @doc "Whether decimals become `%Decimal{}`, which needs that library, or their text."
  @spec build_decimals(boolean) :: :ok
  def build_decimals(_yes), do: err!()

  # ---- handles ------------------------------------------------------------

  @doc """
  A term that holds another one until it is closed or nobody has it any more.
  Those in decoded values hold `{data | nil, token | nil, nil}`, see Snakepit.ZeroCopy.
  """
  @spec handle_new(term) :: handle
  def handle_new(_term), do: err!()

  @doc "What it holds."
  @spec handle_get(handle) :: {:ok, term} | :closed
  def handle_get(_handle), do: err!()

  @doc "The same, for the last time."
  @spec handle_close(handle) :: {:ok, term} | :closed
  def handle_close(_handle), do: err!()

  # ---- gRPC client --------------------------------------------------------

  @doc "A channel to `host:port` or `unix:path`; connects when first used."
  @spec channel_open(target :: String.t()) :: handle
  def channel_open(_target), do: err!()

  @doc """
  The same with options. All texts of `:tls` are PEM; `:name` is what stands in
  the server's certificate where that is not the target's host. `:authorization`
  is a header of that name for each call. `{:error, :tls}` when the certificates
  are of no use.
  """
  @spec channel_open(
          target :: String.t(),
          options :: %{
            optional(:tls) => %{optional(:ca | :cert | :key | :name) => String.t()},
            optional(:authorization) => String.t()
          }
        ) :: handle | {:error, :tls}
  def channel_open(_target, _options), do: err!()

  @spec channel_close(handle) :: :ok
  def channel_close(_channel), do: err!()

  @doc "The worker behind it said that it takes CBOR; before the channel's slot_add/8."
  @spec channel_takes_cbor(handle) :: :ok
  def channel_takes_cbor(_channel), do: err!()

  @doc "One unary call of any method (\"/package.Service/Method\") with message bytes."
  @spec rpc_unary(handle, reference, String.t(), binary, timeout, [{String.t(), String.t()}]) ::
          {:ok, call :: handle}
  def rpc_unary(_channel, _ref, _method, _bytes, _timeout_ms, _headers), do: err!()

  @spec rpc_stream(handle, reference, String.t(), binary, timeout, [{String.t(), String.t()}]) ::
          {:ok, call :: handle}
  def rpc_stream(_channel, _ref, _method, _bytes, _timeout_ms, _headers), do: err!()

  @doc "The same with a stream both ways: `bytes` are the first message, rpc_send/2 sends others."
  @spec rpc_bidi(handle, reference, String.t(), binary, timeout, [{String.t(), String.t()}]) ::
          {:ok, call :: handle}
  def rpc_bidi(_channel, _ref, _method, _bytes, _timeout_ms, _headers), do: err!()

  @doc "Never waits. `:full`: 64 messages wait for the server already."
  @spec rpc_send(call :: handle, binary) :: :ok | {:error, :full | :ended}
  def rpc_send(_call, _bytes), do: err!()

  # ---- local carrier ------------------------------------------------------

  @doc """
  Listens at a Unix socket for workers on this host. There is one for the VM: a
  later call with another path moves it there.
  """
  @spec local_start(path :: String.t()) :: :ok | {:error, String.t()}
  def local_start(_path), do: err!()

  @doc """
  Expects one worker, which shows the 32 bytes `token`. The calling process gets

      {:snakepit_local, ref, :ready}            it has come: slot_add/8 takes the
                                                link in place of a channel
      {:snakepit_local, ref, {:ready, :no_gil}} the same, and its threads run
                                                Python without a global lock
      {:snakepit_local, ref, {:pong, n, ms}}    it answered local_ping/2; for `ms`
                                                its interpreter has let no other
                                                thread in
      {:snakepit_local, ref, {:closed, why}}    it has gone, or could not be let in

  The process's death closes the link.
  """
  @spec local_expect(token :: <<_::256>>, ref :: reference) :: link :: handle
  def local_expect(_token, _ref), do: err!()

  @doc "Asks whether the worker lives; user code does not delay the answer."
  @spec local_ping(link :: handle, n :: non_neg_integer) :: :ok | {:error, :closed}
  def local_ping(_link, _n), do: err!()

  @spec local_close(link :: handle) :: :ok
  def local_close(_link), do: err!()

  @doc """
  From now on `server` gets what the worker asks of the BEAM, `max` at a time:

      {:snakepit_request, request, method, bytes}   `method` is its place in the
                                                    service, from 1
      {:snakepit_request_cancelled, request}        the worker does not wait any
                                                    more; request_reply/3 (which
                                                    is refused) lets it go
                                                    `bytes` may be {bytes, binaries}
      :snakepit_requests_closed                     the connection is over
  """
  @spec local_serve(link :: handle, server :: pid, max :: pos_integer) :: :ok
  def local_serve(_link, _server, _max), do: err!()

  @doc """
  What cbor_encode/1 does, for a request's reply: what is large goes beside it, with
  the next request_reply/3 of status 0.
  """
  @spec request_encode(request :: handle, term) :: {:ok, binary} | {:error, reason}
  def request_encode(_request, _term), do: err!()

  @doc """
  Answers a request, from any process: status 0 and the response message, or a
  gRPC status and a text. Then it may wait a few microseconds for what the worker
  says next.
  """
  @spec request_reply(request :: handle, status :: 0..16, binary) :: :ok | {:error, :cancelled}
  def request_reply(_request, _status, _bytes), do: err!()

  # ---- messages -----------------------------------------------------------

  @doc """
  Any message of proto/snakepit_bridge.proto to bytes. `name` is the message's
  (:PingRequest), the map has atom keys as in the proto; strings and bytes are
  binaries, maps are maps, `google.protobuf.Any` is
  `%{type_url: _, value: _}`, a Timestamp `%{seconds: _, nanos: _}`, a set
  oneof field is there under its own name. Absent keys are defaults. Floats that
  the BEAM does not have are :nan, :infinity and :neg_infinity.

  `{:error, {:encode, path, text}}`: `path` is the way to what cannot be
  encoded, `text` says why.
  """
  @spec message_encode(atom, map) :: {:ok, binary} | {:error, reason}
  def message_encode(_name, _map), do: err!()

  @doc "Bytes to such a map: every field is there; message fields that are not set are nil, unset oneof members are left out. {:error, {:decode, text}} names message and field."
  @spec message_decode(atom, binary) :: {:ok, map} | {:error, reason}
  def message_decode(_name, _bytes), do: err!()

  # ---- gRPC server --------------------------------------------------------

  @doc """
  Listens on `host:port` (port 0 takes a free one). `methods` are those that
  are served ("/package.Service/Method"); calls of others end with
  UNIMPLEMENTED. `max_receive` bounds a message. With `tls` (texts in PEM) clients
  have to speak TLS, and with `verify` have a certificate that `ca` vouches for.
  `{:error, :listen}` when the address cannot be listened on, or the
  certificates are of no use.

  The caller owns the server, which stops when it dies, and gets for each call

      {:snakepit_rpc, call, method, bytes, headers, time_left_ms | :infinity}

  with the client's message. Any process answers it with `server_reply/2`
  (unary), or `server_send/2` any number of times and `server_finish/1`, or
  `server_fail/3`. When the client has gone, the deadline has passed or the
  server stops before that, the owner gets `{:snakepit_rpc_cancelled, call}`
  once, and answers are `{:error, :cancelled}`. A call that nobody answers
  stays open until then.

  `max_connections`, `acceptors` (threads that take connections) and `backlog` are
  for plain text, on Linux: more connections are closed at once, and the owner gets
  `{:snakepit_server_full, server}` for the first of them since there was room.
  """
  @spec server_start(
          host :: String.t(),
          port :: :inet.port_number(),
          options :: %{
            required(:methods) => [String.t()],
            optional(:max_receive) => non_neg_integer | :infinity,
            optional(:max_connections) => pos_integer | :infinity,
            optional(:acceptors) => 1..256,
            optional(:backlog) => pos_integer,
            optional(:tls) => %{
              required(:cert) => String.t(),
              required(:key) => String.t(),
              optional(:ca) => String.t(),
              optional(:verify) => boolean
            }
          }
        ) :: {:ok, handle, port :: 1..65_535} | {:error, :listen | :system_limit}
  def server_start(_host, _port, _options), do: err!()

  @doc """
  Open calls end with UNAVAILABLE. When all is closed the owner gets
  `{:snakepit_server_stopped, server}`.
  """
  @spec server_stop(handle) :: :ok
  def server_stop(_server), do: err!()

  @spec server_reply(handle, iodata) :: :ok | {:error, :cancelled}
  def server_reply(_call, _bytes), do: err!()

  @doc """
  Never blocks: the message is queued. `:wait` means that it was taken and the
  queue is at its bound; `{:snakepit_rpc_ready, call}` comes when the next may
  be sent, and until then it is `{:error, :full}`.
  """
  @spec server_send(handle, iodata) :: :ok | :wait | {:error, :full | :cancelled}
  def server_send(_call, _bytes), do: err!()

  @spec server_finish(handle) :: :ok | {:error, :cancelled}
  def server_finish(_call), do: err!()

  @spec server_fail(handle, status :: 1..16, message :: iodata) :: :ok | {:error, :cancelled}
  def server_fail(_call, _status, _message), do: err!()

  @doc "Where the client is, as gRPC says it: `ipv4:127.0.0.1:40000`."
  @spec server_peer(handle) :: String.t()
  def server_peer(_call), do: err!()

  @doc """
  Asks for the client's next message: the caller gets `{:snakepit_rpc_message, call,
  bytes}`, with nil for `bytes` when the client sends no more. `:full`: it has been
  asked for already. Nothing comes once the call is over or cancelled.
  """
  @spec server_read(handle) :: :ok | {:error, :full | :cancelled}
  def server_read(_call), do: err!()

  # ---- guards -------------------------------------------------------------

  @doc """
  A term that `owner` hears of when nobody holds it any more, once:
  `{:snakepit_guard, bytes}`. At most 4096 bytes.
  """
  @spec guard_new(owner :: pid, bytes :: binary) :: guard :: handle
  def guard_new(_owner, _bytes), do: err!()

  @doc "From now on its end is told to nobody."
  @spec guard_disarm(guard :: handle) :: :ok
  def guard_disarm(_guard), do: err!()

  # ---- segments -------------------------------------------------------------
  # Memory that goes to local workers and back beside the messages.

  @doc """
  What a pool has of it: counts, bytes, limits. `:sent` and `:received` are the segments
  that were attached to messages, `:inline` the binaries for which there was none.
  """
  @spec pool_segments(handle) :: %{atom => non_neg_integer | :infinity | boolean}
  def pool_segments(_pool), do: err!()

  @doc """
  Binaries of `:threshold` bytes or more go by segment, of which a pool has at most
  `:max_bytes`, and keeps `:idle_bytes` for later, and for `:idle_ms` as much as was in use
  at once in that time. Keys that are not there stay as they are.
  """
  @spec pool_set_segments(
          handle,
          %{
            optional(:threshold) => pos_integer | :infinity,
            optional(:max_bytes) => non_neg_integer | :infinity,
            optional(:idle_bytes) => non_neg_integer,
            optional(:idle_ms) => non_neg_integer
          }
        ) :: :ok
  def pool_set_segments(_pool, _settings), do: err!()

  @doc "Memory of `size` zero bytes, which counts as the pool's where one is named."
  @spec segment_alloc(pool :: handle | nil, size :: pos_integer) ::
          {:ok, segment :: handle} | {:error, {:limit, String.t()} | :unavailable}
  def segment_alloc(_pool, _size), do: err!()

  @doc "`:sealed` once it is a binary, `:range` for what does not fit."
  @spec segment_write(segment :: handle, offset :: non_neg_integer, iodata) ::
          :ok | {:error, :range | :sealed}
  def segment_write(_segment, _offset, _data), do: err!()

  @doc """
  All of it, without a copy; nobody can write there any more. Raises ArgumentError
  while another process does.
  """
  @spec segment_binary(segment :: handle) :: binary
  def segment_binary(_segment), do: err!()

  @doc """
  What all of them are: `:lent` are uses by workers, `:mapped` bytes that workers
  gave, `:inline` binaries for which there was none.
  """
  @spec segment_info() :: %{atom => non_neg_integer}
  def segment_info, do: err!()

  @doc "Of the whole VM. Descriptors beyond that are not kept or not made."
  @spec segments_set_limit(bytes :: non_neg_integer, descriptors :: non_neg_integer) :: :ok
  def segments_set_limit(_bytes, _descriptors), do: err!()

  @doc "In which segment a binary lies, and where."
  @spec binary_segment(binary) :: {:ok, id :: pos_integer, offset :: non_neg_integer} | :none
  def binary_segment(_binary), do: err!()

  # ---- OS processes -------------------------------------------------------

  @doc """
  Sends a signal (0: none, only looks) to a process, if it is the one that
  started at `start_ticks`; 0 for whichever has that number. 0 or an errno.
  """
  @spec os_signal(pid :: pos_integer, start_ticks :: non_neg_integer, signo :: 0..64) ::
          non_neg_integer
  def os_signal(_pid, _start_ticks, _signo), do: err!()

  @doc "The same to a process group, but never to our own."
  @spec os_signal_group(pgid :: pos_integer, signo :: 0..64) :: non_neg_integer
  def os_signal_group(_pgid, _signo), do: err!()

  defp err!, do: :erlang.nif_error({:not_loaded, __MODULE__})
end
