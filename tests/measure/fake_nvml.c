/* A libnvidia-ml.so.1 that answers from a text file of "key value" lines, read at each call.
 *
 * The file is named by FAKE_NVML. Keys, N a device, M a MIG instance, F a function's name:
 *   count N                      devices
 *   F code                       return code of a function of the system
 *   gpuN.F code                  return code of a function of the device
 *   gpuN.field code              return code of the instant power field
 *   gpuN.uuid, gpuN.name text
 *   gpuN.power_w, gpuN.slope_w   power since loading, and its rise in a second
 *   gpuN.counter_offset_j        added to the counter
 *   gpuN.KEY number              any other value
 *   migM.uuid text, migM.parent N
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { NOT_SUPPORTED = 3, NOT_FOUND = 6, INVALID = 2, FIELD_POWER_INSTANT = 186 };

typedef struct { int index; int is_mig; } Device;
static Device devices[32], instances[32];

typedef struct {
    uint32_t field, scope;
    int64_t timestamp, latency;
    uint32_t type, code;
    union { double d; uint32_t u; unsigned long long ull; } value;
} Field;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double loaded;
__attribute__((constructor)) static void load(void) { loaded = now(); }

static int lookup(const char *key, char *value, size_t size) {
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256];
    int found = 0;
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) {
        char *space = strchr(line, ' ');
        if (!space) continue;
        *space = 0;
        if (strcmp(line, key)) continue;
        space[1 + strcspn(space + 1, "\n")] = 0;
        snprintf(value, size, "%s", space + 1);
        found = 1;
    }
    fclose(file);
    return found;
}

static double number(const char *key, double otherwise) {
    char value[128];
    return lookup(key, value, sizeof value) ? atof(value) : otherwise;
}

static const char *key_of(const Device *device, const char *name) {
    static __thread char key[128];
    snprintf(key, sizeof key, "%s%d.%s", device->is_mig ? "mig" : "gpu", device->index, name);
    return key;
}

static double of(const Device *device, const char *name, double otherwise) {
    return number(key_of(device, name), otherwise);
}

static double power_w(const Device *device) {
    return of(device, "power_w", 100) + of(device, "slope_w", 0) * (now() - loaded);
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; return number("nvmlInitWithFlags", 0); }
int nvmlShutdown(void) {
    const char *path = getenv("FAKE_NVML_SHUTDOWNS");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) { fputs("x", file); fclose(file); }
    return 0;
}
const char *nvmlErrorString(int code) { (void)code; return "an error of the fake"; }

int nvmlSystemGetDriverVersion(char *version, unsigned size) {
    snprintf(version, size, "550.54.15");
    return number("nvmlSystemGetDriverVersion", 0);
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    *version = 12040;
    return number("nvmlSystemGetCudaDriverVersion_v2", 0);
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = number("count", 1);
    return number("nvmlDeviceGetCount_v2", 0);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
    if (index >= number("count", 1)) return INVALID;
    devices[index].index = index;
    *device = &devices[index];
    return of(*device, __func__, 0);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device **device) {
    for (int i = 0; i < 32; i++) {
        Device one = {i, 1};
        char value[128];
        if (lookup(key_of(&one, "uuid"), value, sizeof value) && !strcmp(value, uuid)) {
            instances[i] = one;
            *device = &instances[i];
            return 0;
        }
    }
    return NOT_FOUND;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device *instance, Device **parent) {
    int index = of(instance, "parent", 0);
    devices[index].index = index;
    *parent = &devices[index];
    return of(instance, __func__, 0);
}

int nvmlDeviceGetUUID(Device *device, char *uuid, unsigned size) {
    if (!lookup(key_of(device, "uuid"), uuid, size))
        snprintf(uuid, size, "GPU-%d0000000-0000-0000-0000-000000000000", device->index);
    return of(device, __func__, 0);
}

int nvmlDeviceGetName(Device *device, char *name, unsigned size) {
    if (!lookup(key_of(device, "name"), name, size)) snprintf(name, size, "NVIDIA Fake");
    return of(device, __func__, 0);
}

int nvmlDeviceGetTotalEnergyConsumption(Device *device, unsigned long long *millijoules) {
    double t = now() - loaded;
    double joules = of(device, "power_w", 100) * t + of(device, "slope_w", 0) * t * t / 2;
    *millijoules = (joules + of(device, "counter_offset_j", 1000)) * 1000;
    return of(device, __func__, 0);
}

int nvmlDeviceGetPowerUsage(Device *device, unsigned *milliwatts) {
    *milliwatts = power_w(device) * 1000;
    return of(device, __func__, 0);
}

int nvmlDeviceGetFieldValues(Device *device, int count, Field *fields) {
    for (int i = 0; i < count; i++) {
        int known = fields[i].field == FIELD_POWER_INSTANT;
        fields[i].code = known ? of(device, "field", 0) : NOT_SUPPORTED;
        fields[i].type = 1;
        fields[i].value.u = power_w(device) * 1000;
    }
    return of(device, __func__, 0);
}

int nvmlDeviceGetMigMode(Device *device, unsigned *current, unsigned *pending) {
    *current = *pending = of(device, "mig", 0);
    return of(device, __func__, 0);
}

int nvmlDeviceGetEccMode(Device *device, unsigned *current, unsigned *pending) {
    *current = *pending = of(device, "ecc", 1);
    return of(device, __func__, 0);
}

int nvmlDeviceGetMemoryInfo(Device *device, unsigned long long *memory) {
    memory[0] = (unsigned long long)of(device, "memory_mib", 81920) << 20;
    memory[1] = memory[0];
    memory[2] = 0;
    return of(device, __func__, 0);
}

int nvmlDeviceGetCudaComputeCapability(Device *device, int *major, int *minor) {
    *major = 9;
    *minor = 0;
    return of(device, __func__, 0);
}

#define READING(function, key, otherwise)                  \
    int function(Device *device, unsigned *value) {        \
        *value = of(device, key, otherwise);               \
        return of(device, #function, 0);                   \
    }
#define INDEXED_READING(function, key, otherwise)                     \
    int function(Device *device, unsigned which, unsigned *value) {   \
        *value = of(device, key, otherwise) + which;                  \
        return of(device, #function, 0);                              \
    }

INDEXED_READING(nvmlDeviceGetTemperature, "temperature_c", 40)
INDEXED_READING(nvmlDeviceGetClockInfo, "clock_mhz", 1000)
READING(nvmlDeviceGetPersistenceMode, "persistence", 1)
READING(nvmlDeviceGetEnforcedPowerLimit, "limit_mw", 700000)
READING(nvmlDeviceGetPowerManagementDefaultLimit, "default_limit_mw", 700000)
READING(nvmlDeviceGetCurrPcieLinkGeneration, "pcie_gen", 5)
READING(nvmlDeviceGetCurrPcieLinkWidth, "pcie_width", 16)
READING(nvmlDeviceGetFanSpeed, "fan_pct", 30)
