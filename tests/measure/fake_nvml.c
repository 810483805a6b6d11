/* A libnvidia-ml.so.1 that answers from a text file of "key value" lines.
 *
 * The file is named by FAKE_NVML and read again when it has changed. The last line of a key wins,
 * and a line counts once its newline is there. Times are seconds since the epoch, so that every
 * process sees the same curves and counters. A number may be hexadecimal, or inf.
 *
 * Keys. N is a device, M a MIG instance, F the name of a function, TABLE is t0:v0,t1:v1,... with
 * rising times:
 *   count N                        devices, 32 at most (1)
 *   F code                         return code of a function of the system (0)
 *   epoch_s                        CLOCK_MONOTONIC at the epoch (loading)
 *   now_s                          the time since the epoch, standing still
 *
 *   gpuN.F code                    return code of a function of the device (0)
 *   gpuN.field, gpuN.field_average, gpuN.field_energy
 *                                  return codes of the fields 186, 185 and 83 (0)
 *   gpuN.uuid, gpuN.name           text
 *   migM.uuid text, migM.parent N  an instance exists where it has a uuid
 *   migM.F code                    instances do not support power, energy and temperature
 *
 * Power in W, over all times, before the epoch too:
 *   gpuN.power_w, gpuN.slope_w     a level (100) and its rise in a second (0)
 *   gpuN.curve                     when power is high_w instead of power_w, plus the rise:
 *     constant, ramp                 never
 *     square                         the first duty (0.5) of each period_s (1)
 *     burst                          for length_s (1) from at_s (0)
 *     step                           from at_s (0)
 *     points                         power is that of the points and nothing else
 *   gpuN.points TABLE              each holds from its time until the next, the first before it
 *                                  too; where they are given, points is the default of curve
 *
 * What sensors make of it. A reading is the mean of the last window, as it was at the last refresh;
 * 0 for both is the power at that instant. Readings are rounded to mW and mJ:
 *   gpuN.instant_window_s, gpuN.instant_refresh_s   field 186 (0, 0)
 *   gpuN.average_window_s, gpuN.average_refresh_s   field 185 (1, 0)
 *   gpuN.legacy_window_s, gpuN.legacy_refresh_s     nvmlDeviceGetPowerUsage (0, 0)
 *   gpuN.counter_refresh_s         time between two values of the counter (0)
 *   gpuN.counter_offset_j          the counter at the epoch (1000)
 *   gpuN.module_w                  power of the fields' scope 1, which fails without it
 *   gpuN.reading_age_s             age of the fields' values and timestamps (0)
 *   gpuN.no_timestamp 1            their timestamps are 0
 *
 * Events:
 *   gpuN.reset_at_s                the counter starts again, at 0 (inf)
 *   gpuN.lost_at_s                 every call of the device fails with 15 from then on (inf)
 *   gpuN.blind_from_s, gpuN.blind_to_s   power fails with 999 (inf, inf)
 *   gpuN.delay_ms                  sleep before a power, field, energy or temperature reading (0)
 *   gpuN.reasons MASK, gpuN.reasons_at TABLE   clock event reasons (0), and from a time on
 *
 * Other values, with their defaults:
 *   gpuN.temperature_c (40), gpuN.temperature_slope_c (0, in a second), gpuN.fan_pct (30)
 *   gpuN.utilisation_pct, gpuN.memory_utilisation_pct (0)
 *   gpuN.memory_mib (81920), gpuN.memory_used_mib (0)
 *   gpuN.processes pid:mib,pid:mib   that compute (none)
 *   gpuN.limit_mw, gpuN.default_limit_mw, gpuN.max_limit_mw (700000), gpuN.min_limit_mw (200000)
 *   gpuN.architecture (9), gpuN.clock_mhz (1000), gpuN.persistence (1), gpuN.compute_mode (0)
 *   gpuN.mig (0), gpuN.max_mig (7 where mig is on), gpuN.ecc (1), gpuN.pcie_gen (5),
 *   gpuN.pcie_width (16), gpuN.c2c (not supported)
 *
 * FAKE_NVML_SHUTDOWNS names a file to which nvmlShutdown adds a byte.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum {
    UNINITIALIZED = 1,
    INVALID = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    LOST = 15,
    VERSION_MISMATCH = 25,
    UNKNOWN = 999
};
enum { FIELD_ENERGY = 83, FIELD_POWER_AVERAGE = 185, FIELD_POWER_INSTANT = 186 };
enum { SCOPE_GPU = 0, SCOPE_MODULE = 1, TYPE_UINT = 1, TYPE_ULL = 3 };
enum { MOST = 32, SYSTEM = 0, GPU = 1, MIG = GPU + MOST };

/* The description: a hash table over one copy of the file, whose lines it cuts up. */

typedef struct {
    int count;
    double *times, *values, *sums; /* sums: integral from the first time */
} Table;

typedef struct {
    int owner; /* SYSTEM, GPU + N or MIG + M */
    const char *name, *value;
    double number;
    Table *table;
} Entry;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char *read_path, *text;
static struct stat read_as;
static Entry *entries;
static size_t capacity;

static double loaded, t; /* t: time of the current call */
static int users;

static Entry *slot(int owner, const char *name) {
    size_t hash = 2166136261u + owner;
    for (const char *c = name; *c; c++) hash = (hash ^ (unsigned char)*c) * 16777619u;
    for (;; hash++) {
        Entry *entry = &entries[hash & (capacity - 1)];
        if (!entry->name || (entry->owner == owner && !strcmp(entry->name, name))) return entry;
    }
}

static void add(char *key, const char *value) {
    Entry entry = {SYSTEM, key, value, strtod(value, NULL), NULL};
    int index, length = 0;
    if (sscanf(key, "gpu%d.%n", &index, &length) == 1 && length) entry.owner = GPU + index;
    else if (sscanf(key, "mig%d.%n", &index, &length) == 1 && length) entry.owner = MIG + index;
    entry.name += length;
    if (!length || (index >= 0 && index < MOST)) *slot(entry.owner, entry.name) = entry;
}

static void forget(void) {
    for (size_t i = 0; i < capacity; i++) free(entries[i].table);
    free(entries);
    free(text);
    free(read_path);
}

static int is_read(const char *path, const struct stat *now) {
    return read_path && !strcmp(read_path, path) && now->st_ino == read_as.st_ino &&
           now->st_size == read_as.st_size && now->st_mtim.tv_sec == read_as.st_mtim.tv_sec &&
           now->st_mtim.tv_nsec == read_as.st_mtim.tv_nsec;
}

static void reload(void) {
    const char *path = getenv("FAKE_NVML");
    struct stat now;
    if (!path || stat(path, &now)) memset(&now, 0, sizeof now);
    if (!path) path = "";
    if (is_read(path, &now)) return;
    forget();
    read_path = strdup(path);
    read_as = now;
    text = malloc(now.st_size + 1);
    FILE *file = fopen(path, "r");
    size_t size = file ? fread(text, 1, now.st_size, file) : 0;
    if (file) fclose(file);
    text[size] = 0;
    size_t wanted = 2;
    for (const char *c = text; *c; c++) wanted += 2 * (*c == '\n');
    for (capacity = 2; capacity < wanted;) capacity *= 2;
    entries = calloc(capacity, sizeof *entries);
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        char *space = strchr(line, ' ');
        if (!space) continue;
        *space = 0;
        add(line, space + 1);
    }
}

static const Entry *find(int owner, const char *name) {
    const Entry *entry = slot(owner, name);
    return entry->name ? entry : NULL;
}

static double number(const char *name, double otherwise) {
    const Entry *entry = find(SYSTEM, name);
    return entry ? entry->number : otherwise;
}

/* Devices. A handle is a pointer into one of these. */

typedef struct {
    int owner, index;
} Device;
static Device gpus[MOST], instances[MOST];

static double clock_s(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

__attribute__((constructor)) static void load(void) {
    loaded = clock_s(CLOCK_MONOTONIC);
    for (int i = 0; i < MOST; i++) {
        gpus[i] = (Device){GPU + i, i};
        instances[i] = (Device){MIG + i, i};
    }
}

static int is_handle(const Device *device) {
    return (device >= gpus && device < gpus + MOST) ||
           (device >= instances && device < instances + MOST);
}

static int is_mig(const Device *device) { return device->owner >= MIG; }

static double of(const Device *device, const char *name, double otherwise) {
    const Entry *entry = find(device->owner, name);
    return entry ? entry->number : otherwise;
}

static const char *words(const Device *device, const char *name, const char *otherwise) {
    const Entry *entry = find(device->owner, name);
    return entry ? entry->value : otherwise;
}

static const Table *table(const Device *device, const char *name) {
    Entry *entry = slot(device->owner, name);
    if (!entry->name || entry->table) return entry->table;
    int most = 1;
    for (const char *c = entry->value; *c; c++) most += *c == ',';
    Table *new = malloc(sizeof *new + 3 * most * sizeof(double));
    new->count = 0;
    new->times = (double *)(new + 1);
    new->values = new->times + most;
    new->sums = new->values + most;
    for (char *c = (char *)entry->value, *end; new->count < most; c = end + 1) {
        int i = new->count;
        new->times[i] = strtod(c, &end);
        if (end == c || *end != ':') break;
        new->values[i] = strtod(end + 1, &end);
        double width = i ? new->times[i] - new->times[i - 1] : 0;
        new->sums[i] = i ? new->sums[i - 1] + new->values[i - 1] * width : 0;
        new->count++;
        if (*end != ',') break;
    }
    return entry->table = new;
}

/* The last row that begins at or before *at*. -1: none does. */
static int row(const Table *table, double at) {
    int low = -1, high = table->count;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (table->times[middle] <= at) low = middle;
        else high = middle;
    }
    return low;
}

/* Power, its integral, and what the sensors make of them. */

static double clamp(double x, double low, double high) { return fmin(fmax(x, low), high); }

static const Table *points(const Device *device) {
    const Table *given = table(device, "points");
    int is_chosen = !strcmp(words(device, "curve", "points"), "points");
    return given && given->count && is_chosen ? given : NULL;
}

static double power_w(const Device *device, double at) {
    const Table *given = points(device);
    if (given) return given->values[(int)fmax(row(given, at), 0)];
    const char *curve = words(device, "curve", "");
    double base = of(device, "power_w", 100), from = of(device, "at_s", 0);
    double period = of(device, "period_s", 1);
    int is_high = 0;
    if (!strcmp(curve, "step")) is_high = at >= from;
    if (!strcmp(curve, "burst")) is_high = at >= from && at < from + of(device, "length_s", 1);
    if (!strcmp(curve, "square"))
        is_high = at - floor(at / period) * period < of(device, "duty", 0.5) * period;
    return (is_high ? of(device, "high_w", base) : base) + of(device, "slope_w", 0) * at;
}

/* An antiderivative of power_w: differences of it are energies. */
static double integral_j(const Device *device, double at) {
    const Table *given = points(device);
    if (given) {
        int i = fmax(row(given, at), 0);
        return given->sums[i] + given->values[i] * (at - given->times[i]);
    }
    const char *curve = words(device, "curve", "");
    double base = of(device, "power_w", 100), from = of(device, "at_s", 0);
    double period = of(device, "period_s", 1), high_s = 0;
    if (!strcmp(curve, "step")) high_s = fmax(at - from, 0);
    if (!strcmp(curve, "burst")) high_s = clamp(at - from, 0, of(device, "length_s", 1));
    if (!strcmp(curve, "square")) {
        double whole = floor(at / period), high = of(device, "duty", 0.5) * period;
        high_s = whole * high + fmin(at - whole * period, high);
    }
    return base * at + of(device, "slope_w", 0) * at * at / 2 +
           (of(device, "high_w", base) - base) * high_s;
}

static double energy_j(const Device *device, double from, double to) {
    return integral_j(device, to) - integral_j(device, from);
}

static double refreshed(const Device *device, const char *sensor, double at) {
    char name[32];
    snprintf(name, sizeof name, "%s_refresh_s", sensor);
    double refresh = of(device, name, 0);
    return refresh > 0 ? floor(at / refresh) * refresh : at;
}

static double thousands(double value) { return floor(fmax(value, 0) * 1000 + 0.5); }

static unsigned milliwatts_of(const Device *device, const char *sensor, double window, double at) {
    char name[32];
    snprintf(name, sizeof name, "%s_window_s", sensor);
    window = of(device, name, window);
    at = refreshed(device, sensor, at);
    return thousands(window > 0 ? energy_j(device, at - window, at) / window : power_w(device, at));
}

static unsigned long long millijoules_of(const Device *device, double at) {
    double reset = of(device, "reset_at_s", INFINITY);
    double seen = refreshed(device, "counter", at);
    if (at >= reset) return thousands(energy_j(device, reset, seen));
    return thousands(of(device, "counter_offset_j", 1000) + energy_j(device, 0, seen));
}

static unsigned temperature_c(const Device *device) {
    return fmax(of(device, "temperature_c", 40) + of(device, "temperature_slope_c", 0) * t, 0);
}

static int is_blind(const Device *device, double at) {
    return at >= of(device, "blind_from_s", INFINITY) && at < of(device, "blind_to_s", INFINITY);
}

/* How a function begins: the mutex for its length, the description, the time, its return code.
 * SYSTEM_CALL, or CALL of a device, or READ of something measured, and return 0 at the end. */

static void leave(int *guard) {
    (void)guard;
    pthread_mutex_unlock(&mutex);
}

static int enter(void) {
    pthread_mutex_lock(&mutex);
    reload();
    return 0;
}

static void wait_for(const Device *device) {
    double ms = is_handle(device) ? of(device, "delay_ms", 0) : 0;
    if (ms <= 0) return;
    struct timespec rest = {ms / 1000, fmod(ms, 1000) * 1e6};
    pthread_mutex_unlock(&mutex);
    while (nanosleep(&rest, &rest) && errno == EINTR) {}
    pthread_mutex_lock(&mutex);
}

static double time_s(void) {
    const Entry *still = find(SYSTEM, "now_s");
    return still ? still->number : clock_s(CLOCK_MONOTONIC) - number("epoch_s", loaded);
}

static int code_of(const Device *device, const char *function, int otherwise) {
    t = time_s();
    if (!users) return UNINITIALIZED;
    if (!is_handle(device)) return INVALID;
    if (t >= of(device, "lost_at_s", INFINITY)) return LOST;
    return of(device, function, otherwise);
}

#define GUARD int guard __attribute__((cleanup(leave), unused)) = enter()
#define END_UNLESS_0(expression)    \
    do {                            \
        int code_ = (expression);   \
        if (code_) return code_;    \
    } while (0)
#define SYSTEM_CALL \
    GUARD;          \
    END_UNLESS_0(users ? (int)number(__func__, 0) : UNINITIALIZED)
#define CALL(device) \
    GUARD;           \
    END_UNLESS_0(code_of(device, __func__, 0))
#define READ(device)  \
    GUARD;            \
    wait_for(device); \
    END_UNLESS_0(code_of(device, __func__, is_handle(device) && is_mig(device) ? NOT_SUPPORTED : 0))

/* Starting and stopping. */

static int start(const char *function) {
    GUARD;
    int code = number(function, 0);
    users += !code;
    return code;
}

int nvmlInit_v2(void) { return start(__func__); }

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    return start(__func__);
}

int nvmlShutdown(void) {
    const char *path = getenv("FAKE_NVML_SHUTDOWNS");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) {
        fputs("x", file);
        fclose(file);
    }
    SYSTEM_CALL;
    users--;
    return 0;
}

const char *nvmlErrorString(int code) {
    (void)code;
    return "an error of the fake";
}

/* The system, and its devices. */

int nvmlSystemGetDriverVersion(char *version, unsigned size) {
    SYSTEM_CALL;
    snprintf(version, size, "550.54.15");
    return 0;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    SYSTEM_CALL;
    *version = 12040;
    return 0;
}

static unsigned count_of_gpus(void) { return clamp(number("count", 1), 0, MOST); }

int nvmlDeviceGetCount_v2(unsigned *count) {
    SYSTEM_CALL;
    *count = count_of_gpus();
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
    GUARD;
    if (users && index >= count_of_gpus()) return INVALID;
    END_UNLESS_0(code_of(&gpus[index % MOST], __func__, 0));
    *device = &gpus[index];
    return 0;
}

static void uuid_of(const Device *device, char *uuid, size_t size) {
    const char *pattern = is_mig(device) ? "" : "GPU-%d0000000-0000-0000-0000-000000000000";
    char otherwise[64];
    snprintf(otherwise, sizeof otherwise, pattern, device->index);
    snprintf(uuid, size, "%s", words(device, "uuid", otherwise));
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device **device) {
    SYSTEM_CALL;
    for (int i = 0; i < 2 * MOST; i++) {
        Device *one = i < MOST ? &gpus[i] : &instances[i - MOST];
        char its[128];
        uuid_of(one, its, sizeof its);
        if ((i < MOST && i >= (int)count_of_gpus()) || !*its || strcmp(its, uuid)) continue;
        END_UNLESS_0(code_of(one, __func__, 0));
        *device = one;
        return 0;
    }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(Device *device, char *uuid, unsigned size) {
    CALL(device);
    uuid_of(device, uuid, size);
    return 0;
}

int nvmlDeviceGetName(Device *device, char *name, unsigned size) {
    CALL(device);
    snprintf(name, size, "%s", words(device, "name", "NVIDIA Fake"));
    return 0;
}

int nvmlDeviceGetIndex(Device *device, unsigned *index) {
    CALL(device);
    *index = device->index;
    return 0;
}

int nvmlDeviceGetMinorNumber(Device *device, unsigned *minor) {
    CALL(device);
    *minor = device->index;
    return 0;
}

typedef struct {
    char legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
} PciInfo;

int nvmlDeviceGetPciInfo_v3(Device *device, PciInfo *info) {
    CALL(device);
    *info = (PciInfo){.bus = device->index + 1, .device_id = 0x233010de};
    snprintf(info->legacy, sizeof info->legacy, "0000:%02X:00.0", info->bus);
    snprintf(info->bus_id, sizeof info->bus_id, "00000000:%02X:00.0", info->bus);
    return 0;
}

int nvmlDeviceGetCudaComputeCapability(Device *device, int *major, int *minor) {
    CALL(device);
    *major = 9;
    *minor = 0;
    return 0;
}

/* MIG. */

int nvmlDeviceGetMigMode(Device *device, unsigned *current, unsigned *pending) {
    CALL(device);
    *current = *pending = of(device, "mig", 0);
    return 0;
}

int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned *count) {
    CALL(device);
    *count = of(device, "max_mig", of(device, "mig", 0) ? 7 : 0);
    return 0;
}

int nvmlDeviceIsMigDeviceHandle(Device *device, unsigned *is) {
    CALL(device);
    *is = is_mig(device);
    return 0;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned index, Device **instance) {
    CALL(device);
    for (int i = 0; i < MOST; i++) {
        Device *one = &instances[i];
        if (!*words(one, "uuid", "") || of(one, "parent", 0) != device->index || index--) continue;
        *instance = one;
        return 0;
    }
    return NOT_FOUND;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device *instance, Device **parent) {
    CALL(instance);
    if (!is_mig(instance)) return INVALID;
    *parent = &gpus[(int)clamp(of(instance, "parent", 0), 0, MOST - 1)];
    return 0;
}

/* Power, energy and temperature. */

int nvmlDeviceGetTotalEnergyConsumption(Device *device, unsigned long long *millijoules) {
    READ(device);
    *millijoules = millijoules_of(device, t);
    return 0;
}

int nvmlDeviceGetPowerUsage(Device *device, unsigned *milliwatts) {
    READ(device);
    if (is_blind(device, t)) return UNKNOWN;
    *milliwatts = milliwatts_of(device, "legacy", 0, t);
    return 0;
}

typedef struct {
    uint32_t field, scope;
    int64_t timestamp, latency;
    uint32_t type, code;
    union {
        double d;
        uint32_t u;
        unsigned long long ull;
    } value;
} Field;

static int answer_power(const Device *device, Field *field, double at) {
    int is_instant = field->field == FIELD_POWER_INSTANT;
    const Entry *module = find(device->owner, "module_w");
    END_UNLESS_0(of(device, is_instant ? "field" : "field_average", 0));
    if (field->scope > SCOPE_MODULE || (field->scope && !module)) return NOT_SUPPORTED;
    if (is_blind(device, at)) return UNKNOWN;
    field->type = TYPE_UINT;
    if (field->scope == SCOPE_MODULE) field->value.u = thousands(module->number);
    else if (is_instant) field->value.u = milliwatts_of(device, "instant", 0, at);
    else field->value.u = milliwatts_of(device, "average", 1, at);
    return 0;
}

static int answer(const Device *device, Field *field, double at) {
    switch (field->field) {
    case FIELD_POWER_INSTANT:
    case FIELD_POWER_AVERAGE:
        return answer_power(device, field, at);
    case FIELD_ENERGY:
        END_UNLESS_0(of(device, "field_energy", 0));
        if (field->scope != SCOPE_GPU) return NOT_SUPPORTED;
        field->type = TYPE_ULL;
        field->value.ull = millijoules_of(device, at);
        return 0;
    default:
        return NOT_SUPPORTED;
    }
}

int nvmlDeviceGetFieldValues(Device *device, int count, Field *fields) {
    READ(device);
    if (count < 1 || !fields) return INVALID;
    double age = of(device, "reading_age_s", 0);
    int has_timestamp = !of(device, "no_timestamp", 0);
    for (int i = 0; i < count; i++) {
        fields[i].timestamp = has_timestamp ? (clock_s(CLOCK_REALTIME) - age) * 1e6 : 0;
        fields[i].latency = 0;
        fields[i].code = answer(device, &fields[i], t - age);
    }
    return 0;
}

int nvmlDeviceGetTemperature(Device *device, unsigned sensor, unsigned *celsius) {
    READ(device);
    if (sensor) return INVALID;
    *celsius = temperature_c(device);
    return 0;
}

typedef struct {
    unsigned version, sensor;
    int celsius;
} Temperature;

int nvmlDeviceGetTemperatureV(Device *device, Temperature *temperature) {
    READ(device);
    if (temperature->version != 0x100000C) return VERSION_MISMATCH;
    if (temperature->sensor) return INVALID;
    temperature->celsius = temperature_c(device);
    return 0;
}

/* Load, memory and clocks. */

static unsigned long long reasons_of(const Device *device) {
    const Table *given = table(device, "reasons_at");
    int i = given ? row(given, t) : -1;
    return i < 0 ? of(device, "reasons", 0) : given->values[i];
}

int nvmlDeviceGetCurrentClocksEventReasons(Device *device, unsigned long long *reasons) {
    CALL(device);
    *reasons = reasons_of(device);
    return 0;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(Device *device, unsigned long long *reasons) {
    CALL(device);
    *reasons = reasons_of(device);
    return 0;
}

int nvmlDeviceGetUtilizationRates(Device *device, unsigned rates[2]) {
    CALL(device);
    rates[0] = of(device, "utilisation_pct", 0);
    rates[1] = of(device, "memory_utilisation_pct", 0);
    return 0;
}

static unsigned long long bytes(double mib) { return (unsigned long long)mib << 20; }

int nvmlDeviceGetMemoryInfo(Device *device, unsigned long long memory[3]) {
    CALL(device);
    memory[0] = bytes(of(device, "memory_mib", 81920));
    memory[2] = bytes(of(device, "memory_used_mib", 0));
    memory[1] = memory[0] - memory[2];
    return 0;
}

typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} Memory;

int nvmlDeviceGetMemoryInfo_v2(Device *device, Memory *memory) {
    CALL(device);
    if (memory->version != 0x02000028) return VERSION_MISMATCH;
    memory->total = bytes(of(device, "memory_mib", 81920));
    memory->reserved = 0;
    memory->used = bytes(of(device, "memory_used_mib", 0));
    memory->free = memory->total - memory->used;
    return 0;
}

typedef struct {
    unsigned pid;
    unsigned long long bytes;
    unsigned gpu_instance, compute_instance;
} Process;

int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned *count, Process *processes) {
    CALL(device);
    const Table *given = table(device, "processes");
    unsigned room = *count;
    *count = given ? given->count : 0;
    if (*count > room) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < *count; i++)
        processes[i] = (Process){given->times[i], bytes(given->values[i]), UINT32_MAX, UINT32_MAX};
    return 0;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(Device *device, unsigned *count, Process *processes) {
    CALL(device);
    (void)processes;
    *count = 0;
    return 0;
}

int nvmlDeviceGetEccMode(Device *device, unsigned *current, unsigned *pending) {
    CALL(device);
    *current = *pending = of(device, "ecc", 1);
    return 0;
}

int nvmlDeviceGetPowerManagementLimitConstraints(Device *device, unsigned *min, unsigned *max) {
    CALL(device);
    *min = of(device, "min_limit_mw", 200000);
    *max = of(device, "max_limit_mw", 700000);
    return 0;
}

int nvmlDeviceGetClockInfo(Device *device, unsigned which, unsigned *mhz) {
    CALL(device);
    *mhz = of(device, "clock_mhz", 1000) + which;
    return 0;
}

int nvmlDeviceGetC2cModeInfoV(Device *device, unsigned *is_enabled) {
    CALL(device);
    if (!find(device->owner, "c2c")) return NOT_SUPPORTED;
    *is_enabled = of(device, "c2c", 0);
    return 0;
}

/* Functions that give one number. */

#define NUMBER(function, key, otherwise)            \
    int function(Device *device, unsigned *value) { \
        CALL(device);                               \
        *value = of(device, key, otherwise);        \
        return 0;                                   \
    }

NUMBER(nvmlDeviceGetArchitecture, "architecture", 9)
NUMBER(nvmlDeviceGetComputeMode, "compute_mode", 0)
NUMBER(nvmlDeviceGetPersistenceMode, "persistence", 1)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, "limit_mw", 700000)
NUMBER(nvmlDeviceGetPowerManagementLimit, "limit_mw", 700000)
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, "default_limit_mw", 700000)
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, "pcie_gen", 5)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, "pcie_width", 16)
NUMBER(nvmlDeviceGetFanSpeed, "fan_pct", 30)
