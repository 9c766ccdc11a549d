defmodule Snakepit.Bridge.SessionTools do
  @moduledoc false
  # Tools that are always there for Python: the variables of its session, where what
  # went wrong is part of the answer, so that Python raises its own exceptions; and
  # what a worker tells of itself when it starts.

  alias Snakepit.Bridge.{InternalToolSpec, SessionStore, ToolContext, WorkerTools}

  @variables "snakepit.variables"
  @worker "snakepit.worker"
  @max_name 256

  # Text from outside makes no atoms.
  @types Map.new(
           ~w(float integer string boolean choice list map any)a,
           &{Atom.to_string(&1), &1}
         )
  @constraints Map.new(~w(min max min_length max_length choices)a, &{Atom.to_string(&1), &1})

  @doc "The tool of that name, or nil."
  @spec find(String.t()) :: InternalToolSpec.t() | nil
  def find(@variables), do: tool(@variables, &variables/1)
  def find(@worker), do: tool(@worker, &worker/1)
  def find(_name), do: nil

  defp tool(name, handler),
    do: %InternalToolSpec{name: name, type: :local, handler: handler, exposed_to_python: true}

  defp worker(params) do
    case ToolContext.current() do
      %{worker_id: nil} -> {:error, "only workers have something to tell of themselves"}
      %{worker_id: worker_id} -> WorkerTools.announce(worker_id, params)
    end
  end

  defp variables(params) do
    context = ToolContext.current()

    with :ok <- session(context),
         {:ok, value} <- run(params["op"], context.session_id, params) do
      %{"ok" => value}
    else
      {:error, reason} -> failure(reason, params)
    end
  end

  # The session of a call begins when it is needed; others begin theirs first.
  defp session(%{worker_id: nil}), do: :ok

  defp session(%{session_id: id}) do
    with {:ok, _} <- SessionStore.create_session(id), do: :ok
  end

  defp run("list", session, _params) do
    with {:ok, variables} <- SessionStore.list_variables(session),
         do: {:ok, Enum.map(variables, &plain/1)}
  end

  defp run(op, session, %{"name" => name} = params)
       when op in ~w(register get update put delete) do
    with :ok <- name(name), do: run(op, session, name, params)
  end

  defp run(_op, _session, _params), do: {:error, :invalid_request}

  defp run("register", session, name, params) do
    with {:ok, type} <- type(params["type"]),
         {:ok, constraints} <- constraints(params["constraints"] || %{}),
         opts = [constraints: constraints],
         {:ok, _} <- SessionStore.register_variable(session, name, type, params["value"], opts),
         do: variable(session, name)
  end

  defp run("get", session, name, _params), do: variable(session, name)

  defp run("update", session, name, params) do
    with :ok <- SessionStore.update_variable(session, name, params["value"]), do: {:ok, nil}
  end

  # Of any type where there was none.
  defp run("put", session, name, params) do
    value = params["value"]

    with {:error, :not_found} <- SessionStore.update_variable(session, name, value),
         {:error, {:duplicate_variable, _}} <-
           SessionStore.register_variable(session, name, :any, value) do
      run("update", session, name, params)
    else
      {:error, reason} -> {:error, reason}
      _done -> {:ok, nil}
    end
  end

  defp run("delete", session, name, _params) do
    with :ok <- SessionStore.delete_variable(session, name), do: {:ok, nil}
  end

  defp variable(session, name) do
    with {:ok, variable} <- SessionStore.get_variable(session, name), do: {:ok, plain(variable)}
  end

  defp plain(variable) do
    %{
      "name" => variable.name,
      "type" => Atom.to_string(variable.type),
      "value" => variable.value,
      "constraints" => Map.new(variable.constraints, fn {k, v} -> {Atom.to_string(k), v} end)
    }
  end

  # ---- what was asked for -------------------------------------------------

  defp name(name) when is_binary(name) and byte_size(name) in 1..@max_name do
    if String.valid?(name), do: :ok, else: {:error, :invalid_name}
  end

  defp name(_other), do: {:error, :invalid_name}

  defp type(name) when is_map_key(@types, name), do: {:ok, @types[name]}
  defp type(other), do: {:error, {:invalid_type, other}}

  defp constraints(%{} = given) do
    case Enum.find(Map.keys(given), &(not is_map_key(@constraints, &1))) do
      nil -> sound(Map.new(given, fn {name, bound} -> {@constraints[name], bound} end))
      unknown -> {:error, {:unknown_constraint, unknown}}
    end
  end

  defp constraints(_other), do: {:error, {:invalid_constraint, "constraints"}}

  defp sound(constraints) do
    case Enum.find(constraints, fn {name, bound} -> not sound?(name, bound) end) do
      nil -> {:ok, constraints}
      {name, _bound} -> {:error, {:invalid_constraint, Atom.to_string(name)}}
    end
  end

  defp sound?(:choices, bound), do: is_list(bound)
  defp sound?(_number, bound), do: is_number(bound)

  # ---- what went wrong ----------------------------------------------------

  defp failure(reason, params) do
    kind = if reason in [:not_found], do: "not_found", else: "invalid"
    %{"error" => kind, "message" => text(reason, params)}
  end

  defp text(:not_found, params), do: "the session has no variable #{inspect(params["name"])}"

  defp text(:invalid_name, _params),
    do: "the name of a variable is text of 1 to #{@max_name} bytes"

  defp text(:invalid_request, _params), do: "not a request for variables"
  defp text(:session_quota_exceeded, _params), do: "there are too many sessions"

  defp text({:duplicate_variable, name}, _params),
    do: "the session has a variable #{inspect(name)} already"

  defp text({:invalid_type, type}, _params) do
    types = @types |> Map.keys() |> Enum.sort() |> Enum.join(", ")
    "#{inspect(type, limit: 5)} is not a type of variables: they are #{types}"
  end

  defp text({:unknown_constraint, name}, _params) do
    names = @constraints |> Map.keys() |> Enum.sort() |> Enum.join(", ")
    "#{inspect(name)} is not a constraint: they are #{names}"
  end

  defp text({:invalid_constraint, "choices"}, _params), do: "the constraint choices is a list"
  defp text({:invalid_constraint, "constraints"}, _params), do: "the constraints are a map"
  defp text({:invalid_constraint, name}, _params), do: "the constraint #{name} is a number"
  defp text({:invalid_value, why}, params), do: "variable #{inspect(params["name"])}: #{why}"

  defp text({:constraint_violation, name, bound}, params) do
    "variable #{inspect(params["name"])}: the value does not fit the constraint " <>
      "#{name}: #{inspect(bound, limit: 10)}"
  end

  defp text(reason, _params), do: inspect(reason)
end
