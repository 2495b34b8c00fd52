# Tests whose reads of files fail on demand.
LDFLAGS_test_reader := -Wl$(comma)--wrap=pread
LDFLAGS_test_streaming := -Wl$(comma)--wrap=pread
