#!/bin/bash
# clocher synth: what it refuses, and that stopping it leaves nothing half written.
. scripts/tap.sh

program=${CLOCHER_BIN:-build/clocher}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# refused CODE TEXT ARGUMENT...: ends with the code, and stderr holds the text.
refused() {
  local code=$1 text=$2 status
  shift 2
  "$program" synth "$@" >"$folder/out" 2>"$folder/err"
  status=$?
  {
    [[ $status -eq $code ]] || echo "exit $status, expected $code"
    grep -qF -- "$text" "$folder/err" || echo "expected '$text', found: $(cat "$folder/err")"
    [[ ! -s $folder/out ]] || echo "something on stdout"
  } | verdict "synth ${*//$folder/DIR}: exit $code"
}

refused 2 "--arch" --out "$folder/x"
refused 2 "--out" --arch qwen3-0.6b
refused 2 "gpt-6" --arch gpt-6 --out "$folder/x"
refused 2 "expected hf" --arch qwen3-0.6b --layout original --out "$folder/x"
refused 2 "--layers" --arch qwen3-0.6b --layers -1 --out "$folder/x"
refused 1 "/proc/nowhere" --arch qwen3-0.6b --layers 1 --out /proc/nowhere

# Interrupted: exit 130, no unfinished file, no config.json that would make the folder look whole.
# A shell without job control lets what it starts in the background ignore SIGINT.
env --default-signal=INT "$program" synth --arch qwen3-0.6b --out "$folder/stopped" --threads 1 2>/dev/null &
pid=$!
for _ in $(seq 200); do
  compgen -G "$folder/stopped/*.part.*" >/dev/null && break
  sleep 0.05
done
kill -INT "$pid"
wait "$pid"
status=$?
{
  [[ $status -eq 130 ]] || echo "exit $status, expected 130"
  find "$folder/stopped" -type f
} | verdict "interrupted, it ends with 130 and leaves no file"
finish
