/* All test programs of the bundle in one: the name it is called by says which one runs. Each of them would have all
 * kernels in it otherwise. PARTS names a file with PART(program) for each; their main functions are called main_PROGRAM
 * there (mk/cuda.mk). */
#include <stdio.h>
#include <string.h>

#define PART(name) int main_##name(int argc, char **argv);
#include PARTS
#undef PART

static const struct {
  const char *name;
  int (*run)(int argc, char **argv);
} parts[] = {
#define PART(name) {#name, main_##name},
#include PARTS
};

int main(int argc, char **argv) {
  const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL, *name = slash  ? slash + 1
                                                                       : argc ? argv[0]
                                                                              : "";
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
    if (!strcmp(name, parts[i].name)) return parts[i].run(argc, argv);
  fprintf(stderr, "%s: call it by the name of a test\n", name);
  return 2;
}
