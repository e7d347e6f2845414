// What gpukm calls of the CUDA driver, without a device: it holds the calls to the driver's rules, and writes down the
// last launch. Tests set the variables that start with fake_ and load this in the place of libcuda.so.1.
#include <cstdint>
#include <cstdlib>
#include <cstring>

struct Function {
  char name[64];
  int shared;
};
struct Launch {
  char function[64];
  unsigned blocks, threads, shared;
  uint64_t stream, context;
  uint64_t values[16];
};

extern "C" {
int fake_devices = 1, fake_major = 9, fake_minor = 0, fake_version = 13000, fake_code = 0;
char fake_failing[64] = "";  // the function that returns fake_code
int fake_sizes[16] = {};     // bytes of each parameter of what is launched; 0 behind the last
int fake_launches = 0, fake_modules = 0, fake_depth = 0, fake_retained = 0;
Launch fake_launch = {};

// A stream that copies: what it was given, carried out as late as an event behind it is waited for.
struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};
int fake_copied = 0, fake_locked = 0, fake_streams = 0, fake_events = 0, fake_held = 0, fake_lockable = 1;
static Copy copies[4096];
static int n_copies = 0, n_done = 0;

static bool started = false;
static uint64_t contexts[64];
static Function functions[64];
static int n_functions = 0;

#define CALL                                                      \
  if (strcmp(fake_failing, __func__) == 0) return fake_code;      \
  if (!started && strcmp(__func__, "cuInit") != 0) return 3

int cuInit(unsigned) {
  CALL;
  started = true;
  return fake_devices ? 0 : 100;
}
int cuDriverGetVersion(int* version) {
  *version = fake_version;
  return 0;
}
int cuGetErrorName(int code, const char** name) {
  *name = code == 1 ? "CUDA_ERROR_INVALID_VALUE" : code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY"
        : code == 3 ? "CUDA_ERROR_NOT_INITIALIZED" : code == 100 ? "CUDA_ERROR_NO_DEVICE"
        : code == 201 ? "CUDA_ERROR_INVALID_CONTEXT" : code == 500 ? "CUDA_ERROR_NOT_FOUND"
        : code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : nullptr;
  return *name ? 0 : 1;
}
int cuGetErrorString(int code, const char** text) {
  *text = code == 700 ? "an illegal memory access was encountered" : "a text";
  return 0;
}
int cuDeviceGetCount(int* count) {
  CALL;
  *count = fake_devices;
  return 0;
}
int cuDeviceGet(int* device, int index) {
  CALL;
  *device = 10 + index;  // a handle is not the number
  return index < fake_devices ? 0 : 101;
}
int cuDeviceGetName(char* name, int room, int device) {
  CALL;
  strncpy(name, device == 10 ? "Fake H200" : "Fake H100", room);
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
  CALL;
  *value = attribute == 75 ? fake_major : attribute == 76 ? fake_minor : attribute == 16 ? 132 : -1;
  return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int) {
  CALL;
  *bytes = size_t(139) << 30;
  return 0;
}
int cuDevicePrimaryCtxRetain(void** context, int device) {
  CALL;
  ++fake_retained;
  *context = reinterpret_cast<void*>(0x7000000000000000 + device);
  return 0;
}
int cuCtxPushCurrent_v2(void* context) {
  CALL;
  contexts[fake_depth++] = reinterpret_cast<uint64_t>(context);
  return 0;
}
int cuCtxPopCurrent_v2(void** context) {
  CALL;
  if (fake_depth == 0) return 201;
  *context = reinterpret_cast<void*>(contexts[--fake_depth]);
  return 0;
}
int cuPointerGetAttribute(void* data, int attribute, uint64_t pointer) {
  CALL;
  if (attribute != 9 || pointer < 0x7F0000000000) return 1;
  *static_cast<int*>(data) = pointer & 1;
  return 0;
}
int cuModuleLoadData(void** module, const void* image) {
  CALL;
  if (fake_depth == 0) return 201;
  if (memcmp(image, "cubin", 5) != 0) return 200;
  ++fake_modules;
  *module = reinterpret_cast<void*>(0x7100000000000000);
  return 0;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  CALL;
  if (fake_depth == 0 || module != reinterpret_cast<void*>(0x7100000000000000)) return 201;
  if (strcmp(name, "missing") == 0) return 500;
  Function& made = functions[n_functions++];
  strncpy(made.name, name, sizeof made.name - 1);
  made.shared = 48 << 10;
  *function = &made;
  return 0;
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
  CALL;
  if (fake_depth == 0 || attribute != 8) return 1;
  static_cast<Function*>(function)->shared = value;
  return 0;
}
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned a, unsigned b, unsigned c,
                   unsigned shared, void* stream, void** parameters, void** extra) {
  CALL;
  const Function& f = *static_cast<Function*>(function);
  if (fake_depth == 0) return 201;
  if (y != 1 || z != 1 || b != 1 || c != 1 || extra || int(shared) > f.shared) return 1;
  ++fake_launches;
  fake_launch = {};
  strcpy(fake_launch.function, f.name);
  fake_launch.blocks = x, fake_launch.threads = a, fake_launch.shared = shared;
  fake_launch.stream = reinterpret_cast<uint64_t>(stream), fake_launch.context = contexts[fake_depth - 1];
  for (int i = 0; i < 16 && fake_sizes[i]; ++i) memcpy(&fake_launch.values[i], parameters[i], fake_sizes[i]);
  return 0;
}
int cuStreamCreate(void** stream, unsigned flags) {
  CALL;
  if (fake_depth == 0 || flags != 1) return 201;
  ++fake_streams;
  *stream = reinterpret_cast<void*>(0x7200000000000000);
  return 0;
}
int cuStreamDestroy_v2(void*) {
  CALL;
  --fake_streams;
  return 0;
}
int cuEventCreate(void** event, unsigned flags) {
  CALL;
  if (fake_depth == 0 || flags != 2) return 201;
  ++fake_events;
  *event = new int(0);
  return 0;
}
int cuEventDestroy_v2(void* event) {
  CALL;
  --fake_events;
  delete static_cast<int*>(event);
  return 0;
}
int cuEventRecord(void* event, void* stream) {
  CALL;
  // Of the main stream, which is no business of these copies, nothing is to be done.
  *static_cast<int*>(event) = stream == reinterpret_cast<void*>(0x7200000000000000) ? n_copies : 0;
  return 0;
}
int cuEventSynchronize(void* event) {
  CALL;
  for (; n_done < *static_cast<int*>(event); ++n_done, ++fake_copied)
    memcpy(copies[n_done].to, copies[n_done].from, copies[n_done].bytes);
  return 0;
}
int cuStreamWaitEvent(void*, void* event, unsigned) { return cuEventSynchronize(event); }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
  CALL;
  if (fake_depth == 0 || stream != reinterpret_cast<void*>(0x7200000000000000)) return 201;
  copies[n_copies++] = {reinterpret_cast<void*>(to), from, bytes};
  return 0;
}
int cuMemHostAlloc(void** memory, size_t bytes, unsigned flags) {
  CALL;
  if (fake_depth == 0 || flags != 1) return 201;
  ++fake_held;
  *memory = malloc(bytes);
  return 0;
}
int cuMemFreeHost(void* memory) {
  CALL;
  --fake_held;
  free(memory);
  return 0;
}
int cuMemHostRegister_v2(void*, size_t, unsigned flags) {
  CALL;
  if (fake_depth == 0 || flags != 1 || !fake_lockable) return 201;
  ++fake_locked;
  return 0;
}
int cuMemHostUnregister(void*) {
  CALL;
  --fake_locked;
  return 0;
}
}
