defmodule Snakepit.Pool.Zygotes do
  @moduledoc false
  # Which zygote a worker is forked from. There is one for each program with
  # its arguments, environment and directory, made when the first worker asks
  # and stopped when no pool's last question was for it.
  use GenServer

  alias Snakepit.Pool.Zygote

  @typedoc """
  `{:failed, _}`: a worker that is started in the usual way would fail as well.
  """
  @type answer ::
          {:fork, Snakepit.Spawner.id()}
          | {:cold, String.t()}
          | {:failed, Zygote.failure()}

  @spec start_link(term) :: GenServer.on_start()
  def start_link(_arg), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc """
  Asks for a zygote. The caller gets `{:snakepit_zygote, ref, answer}`, or the
  `:DOWN` message of `ref` when this process ends. `claim` is a pool's name, or
  the pid of a worker without one; `except` a zygote that did not fork.
  """
  @spec ask(atom | pid, Snakepit.Spawner.spec(), Snakepit.Spawner.id() | nil) :: reference
  def ask(claim, spec, except \\ nil) do
    # Environments hold secrets; in a function they are in no crash report.
    question = %{key: key(spec), name: spec.program, spec: fn -> spec end, except: except}
    put(claim, {:ask, question})
  end

  @doc "The answer is `{:cold, why}`, and the log tells of it once."
  @spec refuse(atom | pid, Snakepit.Spawner.spec(), String.t()) :: reference
  def refuse(claim, spec, why),
    do: put(claim, {:refuse, %{key: key({spec, claim, why}), name: spec.program, why: why}})

  defp put(claim, {what, question}) do
    ref = Process.monitor(__MODULE__)
    GenServer.cast(__MODULE__, {what, {self(), ref}, claim, question})
    ref
  end

  # The environment of the BEAM is part of the zygote's.
  defp key(spec), do: :crypto.hash(:sha256, :erlang.term_to_binary({spec, :os.env()}))

  @doc "The OS processes of the zygotes that are ready."
  @spec os_ids() :: [Snakepit.Spawner.id()]
  def os_ids, do: GenServer.call(__MODULE__, :os_ids)

  @impl true
  def init(nil) do
    _ = Process.flag(:trap_exit, true)
    {:ok, %{zygotes: %{}, unfit: %{}, claims: %{}}}
  end

  # zygotes: key => %{pid, name, os_id (once it is ready), waiting: [{pid, ref}]}
  # unfit:   key => why
  # claims:  claim => key

  @impl true
  def handle_cast({:ask, from, claim, %{key: key, name: name} = question}, state) do
    state = state |> claim(claim, key) |> drop(key, question.except)

    case state do
      %{unfit: %{^key => why}} ->
        answer(from, {:cold, why})
        {:noreply, state}

      %{zygotes: %{^key => %{os_id: os_id}}} when os_id != nil ->
        answer(from, {:fork, os_id})
        {:noreply, state}

      %{zygotes: %{^key => _loading}} ->
        {:noreply, update_in(state.zygotes[key].waiting, &[from | &1])}

      _ ->
        {:ok, pid} = Zygote.start_link(name, question.spec)
        zygote = %{pid: pid, name: name, os_id: nil, waiting: [from]}
        {:noreply, put_in(state.zygotes[key], zygote)}
    end
  end

  def handle_cast({:refuse, from, claim, %{key: key, why: why} = question}, state) do
    state = claim(state, claim, key)
    answer(from, {:cold, why})

    if is_map_key(state.unfit, key),
      do: {:noreply, state},
      else: {:noreply, unfit(state, question)}
  end

  @impl true
  def handle_call(:os_ids, _from, state) do
    {:reply, for({_key, %{os_id: id}} when id != nil <- state.zygotes, do: id), state}
  end

  @impl true
  def handle_info({:zygote_ready, pid, os_id}, state) do
    case find(state, pid) do
      {key, zygote} ->
        for from <- Enum.reverse(zygote.waiting), do: answer(from, {:fork, os_id})
        pools = for {pool, ^key} when is_atom(pool) <- state.claims, do: pool
        GenServer.cast(Snakepit.Pool, {:forks, pools})
        {:noreply, put_in(state.zygotes[key], %{zygote | os_id: os_id, waiting: []})}

      nil ->
        {:noreply, state}
    end
  end

  def handle_info({:EXIT, pid, reason}, state) do
    case find(state, pid) do
      {key, zygote} ->
        state = %{state | zygotes: Map.delete(state.zygotes, key)}
        {:noreply, ended(state, key, zygote, reason)}

      nil ->
        {:noreply, state}
    end
  end

  def handle_info({:DOWN, _ref, :process, pid, _reason}, state),
    do: {:noreply, release(%{state | claims: Map.delete(state.claims, pid)})}

  def handle_info(_other, state), do: {:noreply, state}

  defp ended(state, key, zygote, {:shutdown, {:unfit, why}}) do
    reply(zygote, {:cold, why})
    unfit(state, %{key: key, name: zygote.name, why: why})
  end

  defp ended(state, _key, zygote, {:shutdown, {:failed, failure}}) do
    reply(zygote, {:failed, failure})
    state
  end

  defp ended(state, _key, zygote, reason) do
    reply(zygote, {:cold, "its zygote ended: #{inspect(reason)}"})
    state
  end

  defp unfit(state, %{key: key, name: name, why: why}) do
    pools = for {pool, ^key} when is_atom(pool) <- state.claims, do: inspect(pool)

    Snakepit.Logger.warning(:pool, fn ->
      "workers of #{Enum.join([name | pools], ", ")} are started one by one and not " <>
        "forked: #{why}. prefork: false does so without trying"
    end)

    put_in(state.unfit[key], why)
  end

  defp reply(zygote, answer), do: Enum.each(zygote.waiting, &answer(&1, answer))

  defp answer({pid, ref}, answer) do
    send(pid, {:snakepit_zygote, ref, answer})
    :ok
  end

  defp find(state, pid), do: Enum.find(state.zygotes, fn {_key, zygote} -> zygote.pid == pid end)

  # It is not asked again; a new one is made in its place.
  defp drop(state, _key, nil), do: state

  defp drop(state, key, os_id) do
    case state.zygotes[key] do
      %{os_id: ^os_id, pid: pid} ->
        stop(pid)
        %{state | zygotes: Map.delete(state.zygotes, key)}

      _ ->
        state
    end
  end

  defp claim(state, claim, key) do
    case state.claims do
      %{^claim => ^key} ->
        state

      claims ->
        _ = is_pid(claim) and not is_map_key(claims, claim) and Process.monitor(claim)
        release(%{state | claims: Map.put(claims, claim, key)})
    end
  end

  # What nobody claims any more.
  defp release(state) do
    wanted = MapSet.new(Map.values(state.claims))
    {kept, gone} = Enum.split_with(state.zygotes, fn {key, _zygote} -> key in wanted end)

    Enum.each(gone, fn {_key, zygote} ->
      reply(zygote, {:cold, "its zygote is not wanted any more"})
      stop(zygote.pid)
    end)

    unfit = Map.filter(state.unfit, fn {key, _why} -> key in wanted end)
    %{state | zygotes: Map.new(kept), unfit: unfit}
  end

  defp stop(pid), do: Process.exit(pid, :shutdown)
end
