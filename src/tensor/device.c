#include "tensor/device_memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const char *const precision_names[] = {[IE_PRECISION_BF16] = "bf16",
                                              [IE_PRECISION_FP32] = "fp32",
                                              [IE_PRECISION_FP16] = "fp16",
                                              [IE_PRECISION_INT8] = "int8"};

const char *ie_precision_name(ie_precision precision) {
  return (unsigned)precision <= IE_PRECISION_INT8 ? precision_names[precision] : "unknown";
}

bool ie_precision_from_name(const char *name, ie_precision *out) {
  for (int i = 0; i <= IE_PRECISION_INT8; i++) {
    if (strcmp(name, precision_names[i]) != 0) continue;
    *out = (ie_precision)i;
    return true;
  }
  return false;
}

static void *cpu_alloc(ie_device *device, size_t bytes) {
  (void)device;
  void *memory = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

static void cpu_dealloc(ie_device *device, void *memory, size_t bytes) {
  (void)device;
  if (memory) munmap(memory, bytes ? bytes : 1);
}

static void cpu_release(ie_device *device) {
  ie_team_free(device->team);
}

/* The level named by the caller, or the best. */
static ie_status isa_choose(const char *name, ie_isa *out, ie_error *error) {
  *out = ie_isa_best();
  if (!name || !*name) return IE_OK;
  int level = ie_isa_from_name(name);
  if (level < 0)
    return ie_error_set(error, IE_INVALID_ARGUMENT,
                        "unknown instruction set '%s', expected scalar, avx2, avx512 or amx", name);
  if (level > (int)*out)
    return ie_error_set(error, IE_DEVICE, "instruction set %s was asked for, but this machine has at most %s",
                        name, ie_isa_name(*out));
  *out = (ie_isa)level;
  return IE_OK;
}

typedef enum device_choice { CHOICE_AUTO, CHOICE_CPU, CHOICE_CUDA } device_choice;

/* "cuda" is the first device, "cuda:N" the one of that number. */
static ie_status kind_parse(const char *kind, device_choice *choice, int *index, ie_error *error) {
  *index = 0;
  *choice = CHOICE_AUTO;
  if (!kind || !strcmp(kind, "auto")) return IE_OK;
  *choice = CHOICE_CPU;
  if (!strcmp(kind, "cpu")) return IE_OK;
  *choice = CHOICE_CUDA;
  if (!strcmp(kind, "cuda")) return IE_OK;
  if (!strcmp(kind, "ze"))
    return ie_error_set(error, IE_UNSUPPORTED,
                        "device 'ze': not built (no build has Level Zero); auto, cpu and cuda are known");
  if (!strncmp(kind, "cuda:", 5) && kind[5] >= '0' && kind[5] <= '9') {
    char *end;
    long n = strtol(kind + 5, &end, 10);
    *index = (int)n;
    if (*end == '\0' && n < 1024) return IE_OK;
  }
  return ie_error_set(error, IE_INVALID_ARGUMENT,
                      "unknown device '%s', expected auto, cpu, cuda, cuda:N or ze", kind);
}

ie_status ie_device_host_open(ie_device *device, const ie_device_options *options, ie_error *error) {
  ie_isa isa;
  ie_status status = isa_choose(options->isa, &isa, error);
  if (status != IE_OK) return status;
  device->alloc = cpu_alloc;
  device->dealloc = cpu_dealloc;
  device->release = cpu_release;
  ie_kernels_fill(&device->kernels, isa);
  return ie_team_new(options->threads, options->affinity ? options->affinity : "auto", &device->team, error);
}

static ie_status cpu_open(const ie_device_options *options, ie_device **out, ie_error *error) {
  ie_device *device = calloc(1, sizeof *device);
  if (!device) return ie_error_set(error, IE_OUT_OF_MEMORY, "out of memory for a device");
  device->kind = "cpu";
  snprintf(device->name, sizeof device->name, "cpu");
  ie_cpu_fill_elementwise(&device->ops);
  ie_cpu_fill_linear(&device->ops);
  ie_cpu_fill_attention(&device->ops);
  ie_cpu_fill_moe(&device->ops);
  ie_cpu_fill_moe_train(&device->ops);
  ie_cpu_fill_route_train(&device->ops);
  ie_cpu_fill_train(&device->ops);
  ie_cpu_fill_attention_train(&device->ops);
  ie_cpu_fill_train_elementwise(&device->ops);
  ie_cpu_fill_loss(&device->ops);
  ie_status status = ie_device_host_open(device, options, error);
  if (status != IE_OK) {
    free(device);
    return status;
  }
  *out = device;
  return IE_OK;
}

/* The first CUDA device; without one the CPU, which notes why. */
static ie_status auto_open(const ie_device_options *options, ie_device **out, ie_error *error) {
  char why[sizeof(*out)->note] = "";
  ie_error cuda = {0};
  if (ie_cuda_is_built() && ie_cuda_device_count(why, sizeof why) > 0) {
    if (ie_cuda_device_open(options, /*index=*/0, out, &cuda) == IE_OK) return IE_OK;
    snprintf(why, sizeof why, "%.*s", (int)sizeof why - 1, cuda.message);
  }
  ie_status status = cpu_open(options, out, error);
  if (status == IE_OK && ie_cuda_is_built()) memcpy((*out)->note, why, sizeof why);
  return status;
}

ie_status ie_device_open(const ie_device_options *options, ie_device **out, ie_error *error) {
  static const ie_device_options defaults = {0};
  if (!options) options = &defaults;
  *out = NULL;
  device_choice choice;
  int index;
  ie_status status = kind_parse(options->kind, &choice, &index, error);
  if (status != IE_OK) return status;
  if (choice == CHOICE_CUDA) return ie_cuda_device_open(options, index, out, error);
  return choice == CHOICE_CPU ? cpu_open(options, out, error) : auto_open(options, out, error);
}

void ie_device_free(ie_device *device) {
  if (!device) return;
  device->release(device);
  free(device);
}

const char *ie_device_kind(const ie_device *device) {
  return device->kind;
}
const char *ie_device_name(const ie_device *device) {
  return device->name;
}
const char *ie_device_note(const ie_device *device) {
  return device->note[0] ? device->note : NULL;
}
bool ie_device_cuda_built(void) {
  return ie_cuda_is_built();
}
const char *ie_device_isa(const ie_device *device) {
  return ie_isa_name(device->kernels.isa);
}
int ie_device_threads(const ie_device *device) {
  return ie_team_size(device->team);
}

const char *const *ie_device_isa_list(void) {
  static const char *const lists[IE_ISA_COUNT][IE_ISA_COUNT + 1] = {
      {"scalar"}, {"scalar", "avx2"}, {"scalar", "avx2", "avx512"}, {"scalar", "avx2", "avx512", "amx"}};
  return lists[ie_isa_best()];
}
