#!/bin/bash
# The documents say what the program does: a page for each command, no flag that --help does not know, none left out.
. scripts/tap.sh

program=${CLOCHER_BIN:-build/clocher}
[[ -x $program ]] || { echo "not ok 1 - $program is missing" && exit 1; }

commands=$("$program" --help | awk '/^Commands:/ { on = 1; next } /^$/ { on = 0 } on && /^  [a-z]/ { print $1 }')
{ [[ -n $commands ]] || echo "it lists none"; } | verdict "--help lists commands"

for command in $commands; do
  [[ -f docs/cmd-$command.md ]] || echo "docs/cmd-$command.md is missing"
done | verdict "each command has a page docs/cmd-NAME.md"
for page in docs/cmd-*.md; do
  name=${page#docs/cmd-} && name=${name%.md}
  grep -qx -- "$name" <<<"$commands" || echo "$page: there is no such command"
done | verdict "each page has a command"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for command in $commands; do
  "$program" "$command" --help >"$folder/$command.help" 2>&1 || echo "$command --help ends with status $?"
  grep -oE '^  --[a-z][a-z0-9-]*' "$folder/$command.help" | tr -d ' ' | LC_ALL=C sort -u >"$folder/$command.flags"
  # Flags above "Flags of every command" are the command's own.
  sed '/^Flags of every command/,$d' "$folder/$command.help" | grep -oE '^  --[a-z][a-z0-9-]*' | tr -d ' ' \
    >"$folder/$command.own"
  printf '%s\n' --help >>"$folder/$command.flags"
done | verdict "each command explains itself with --help and exit 0"

for command in $commands; do
  page=docs/cmd-$command.md
  [[ -f $page ]] || continue
  while read -r flag; do
    grep -qE -- "$flag([^a-z0-9-]|\$)" "$page" || echo "$page: says nothing of $flag"
  done <"$folder/$command.own"
done | verdict "each page names every flag of its command"

# The other name of the program.
engine=$(dirname "$program")/inference-engine
"$engine" --help 2>&1 >"$folder/engine.help" || echo "inference-engine --help ends with status $?"
grep -oE '^  --[a-z][a-z0-9-]*' "$folder/engine.help" | tr -d ' ' | LC_ALL=C sort -u >"$folder/engine.flags"
{
  [[ -s $folder/engine.flags ]] || echo "inference-engine --help lists no flags"
  while read -r flag; do
    grep -qE -- "$flag([^a-z0-9-]|\$)" docs/inference-engine.md || echo "docs/inference-engine.md: says nothing of $flag"
  done <"$folder/engine.flags"
  grep -ohE -- '--[a-z][a-z0-9-]*' docs/inference-engine.md | LC_ALL=C sort -u | while read -r flag; do
    grep -qx -- "$flag" "$folder/engine.flags" || [[ $flag == --flag ]] ||
      echo "docs/inference-engine.md: inference-engine does not know $flag"
  done
} | verdict "docs/inference-engine.md names the flags of inference-engine --help, and no others"
# Variables: those that act are explained; the table of the source is the list.
sed -n '/these act/,/these do not/p' cli/inference_engine_env.c | grep -oE '"[A-Z_]+"' | tr -d '"' |
  while read -r name; do
    grep -qE "(^|[^A-Z_])$name([^A-Z_]|\$)" docs/inference-engine.md || echo "docs/inference-engine.md: says nothing of $name"
  done | verdict "docs/inference-engine.md names each variable that acts"

# Command lines in all documents; a line that ends in a backslash goes on.
for page in README.md docs/*.md; do
  sed -e ':join' -e '/\\$/{N;s/\\\n/ /;b join' -e '}' "$page" | awk -v page="$page" '
    {
      rest = $0
      while (match(rest, /(^|[^A-Za-z0-9_.-])clocher [a-z][a-z-]*( [^`|;&#]*)?/)) {
        text = substr(rest, RSTART, RLENGTH)
        rest = substr(rest, RSTART + RLENGTH)
        sub(/^.*clocher /, "", text)
        n = split(text, words, " ")
        for (i = 2; i <= n; i++)
          if (match(words[i], /^\[?--[a-z][a-z0-9-]*/)) {
            flag = substr(words[i], RSTART, RLENGTH)
            sub(/^\[/, "", flag)
            print page, words[1], flag
          }
      }
    }'
done | LC_ALL=C sort -u | while read -r page command flag; do
  [[ -f $folder/$command.flags ]] || { echo "$page: clocher $command $flag: no such command" && continue; }
  grep -qx -- "$flag" "$folder/$command.flags" || echo "$page: clocher $command does not know $flag"
done | verdict "each command line in the documents uses flags that --help knows"

# Links between the documents.
for page in README.md CHANGELOG.md docs/*.md; do
  [[ -f $page ]] || { echo "$page is missing" && continue; }
  grep -oE '\]\([^)#: ]+' "$page" | sed 's/^](//' | while read -r target; do
    [[ $target == http* || -e $(dirname "$page")/$target ]] || echo "$page: links to $target, which is not there"
  done
done | verdict "links between the documents lead somewhere"

# Paths in the documents; NAME, NOUN, * and ... stand for many.
for page in README.md docs/*.md; do
  grep -oE '`(src|include|cli|tests|fuzz|examples|scripts|tools|docs|mk)/[A-Za-z0-9_./*-]*`' "$page" | tr -d '`' |
    grep -vE 'NAME|NOUN|\*|<' | LC_ALL=C sort -u | while read -r path; do
    [[ -e $path ]] || echo "$page: names $path, which is not there"
  done
done | verdict "paths in the documents exist"
finish
