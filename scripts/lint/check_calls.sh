#!/bin/bash
# Functions that a folder may not call. Comments and strings are left out before the search.
. "$(dirname "$0")/common.sh"

# calls PATTERN FOLDER...: "PATH:LINE: text" of each call to a function whose name matches.
calls() {
  local pattern=$1
  shift
  files_in "c h cu" "$@" | xargs -r awk -v pattern="(^|[^A-Za-z0-9_.>])($pattern)[ ]*\\(" '
    FNR == 1 { in_comment = 0 }
    {
      line = $0
      gsub(/"([^"\\]|\\.)*"/, "\"\"", line)
      if (in_comment) { if (line !~ /\*\//) next; sub(/^.*\*\//, "", line); in_comment = 0 }
      gsub(/\/\*([^*]|\*+[^*\/])*\*+\//, "", line)
      sub(/\/\/.*/, "", line)
      if (line ~ /\/\*/) { in_comment = 1; sub(/\/\*.*/, "", line) }
      if (line ~ pattern) print FILENAME ":" FNR ": " $0
    }'
}

calls 'getenv|secure_getenv|setenv|putenv|unsetenv|clearenv' src | verdict "the library does not read the environment"
calls 'exit|_exit|_Exit|quick_exit|abort|err|errx' src | verdict "the library does not end the process"
calls 'printf|vprintf|puts|putchar|putc|fputs|fprintf|vfprintf|perror|warn|warnx' src |
  grep -vE 'f(printf|puts)\((file|f|out|stream),|fputs\([^,]*, *(file|f|out|stream)\)' |
  verdict "the library does not print"
calls 'gets|strcpy|strcat|sprintf|vsprintf|strtok|rand|srand|random|atoi|atol|atof|tmpnam|mktemp|alloca|system|popen' \
  src cli | verdict "no calls that cannot be made safe"
calls 'setlocale|signal|fork|chdir|umask' src | verdict "the library leaves the state of the process alone"
files_in "c h cu" src cli include tests | xargs -r grep -nE '\b(TODO|FIXME|XXX|HACK)\b' | verdict "nothing is left to do in comments"
grep -nE -- '-ffast-math|-Ofast|-march=native' Makefile mk/*.mk 2>/dev/null | verdict "no flags that change arithmetic or bind to one machine"
finish
