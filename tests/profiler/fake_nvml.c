/* A stand-in for libnvidia-ml.so.1, so that the real binding can be driven through everything a driver may answer.
 *
 * FAKE_NVML_STATE names a text file of `key=value` lines that is read again at every call; without it the library
 * refuses to start. `fail.<function>=<code>` makes one function return that NVML code. Clock locks live beside it in
 * `<state>.lock<gpu>`, because they outlive the process that set them; calls that change a GPU are appended to
 * `<state>.log`. Energy is `power_mw` (growing by `ramp_mw_per_s`) since `origin_s`, and moves every `tick_ms` only. A
 * throttle counter is `field_ns.<id>` plus `field_frac.<id>` of the time since `origin_s`. The time is `now_s`, or that
 * of the monotonic clock without it.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, NO_LIBRARY = 12 };
enum { MAX_GPUS = 8, STEP_MHZ = 15, MIN_MHZ = 345, MAX_MHZ = 1980 };

static const char *const gpu_ids[MAX_GPUS] = {"0", "1", "2", "3", "4", "5", "6", "7"};

/* Copies the value of `key` into `text`; returns 0 where the state has no such key. */
static int find(const char *key, char *text, size_t size) {
    const char *path = getenv("FAKE_NVML_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256];
    int found = 0;
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) {
        char *equals = strchr(line, '=');
        if (!equals) continue;
        *equals = 0;
        if (strcmp(line, key)) continue;
        equals[1 + strcspn(equals + 1, "\n")] = 0;
        snprintf(text, size, "%s", equals + 1);
        found = 1;
    }
    fclose(file);
    return found;
}

static double number(const char *key, double otherwise) {
    char text[128];
    return find(key, text, sizeof text) ? atof(text) : otherwise;
}

static double keyed(const char *prefix, unsigned id, double otherwise) {
    char key[64];
    snprintf(key, sizeof key, "%s%u", prefix, id);
    return number(key, otherwise);
}

static int failure(const char *function) {
    char key[128];
    snprintf(key, sizeof key, "fail.%s", function);
    return (int)number(key, SUCCESS);
}

#define CHECK() do { int code_ = failure(__func__); if (code_) return code_; } while (0)

static void record(const char *function, int gpu, unsigned mhz) {
    char path[512];
    snprintf(path, sizeof path, "%s.log", getenv("FAKE_NVML_STATE"));
    FILE *file = fopen(path, "a");
    if (!file) return;
    fprintf(file, "%s %d %u %d\n", function, gpu, mhz, (int)getpid());
    fclose(file);
}

static void lock_path(int gpu, char *path, size_t size) {
    snprintf(path, size, "%s.lock%d", getenv("FAKE_NVML_STATE"), gpu);
}

static unsigned locked_mhz(int gpu) {
    char path[512];
    unsigned mhz = 0;
    lock_path(gpu, path, sizeof path);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    if (fscanf(file, "%u", &mhz) != 1) mhz = 0;
    fclose(file);
    return mhz;
}

static double since_origin_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return number("now_s", now.tv_sec + 1e-9 * now.tv_nsec) - number("origin_s", 0);
}

static int index_of(void *device) { return atoi((const char *)device); }

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (!getenv("FAKE_NVML_STATE")) return NO_LIBRARY;
    CHECK();
    return SUCCESS;
}

int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code) {
    switch (code) {
        case 3: return "Not Supported";
        case 4: return "Insufficient Permissions";
        case 12: return "NVML Shared Library Not Found";
        case 15: return "GPU is lost";
        default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char *text, unsigned size) {
    CHECK();
    if (!find("driver", text, size)) snprintf(text, size, "580.65.06");
    return SUCCESS;
}

int nvmlSystemGetCudaDriverVersion(int *version) {
    CHECK();
    *version = (int)number("cuda", 13000);
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    CHECK();
    *count = (unsigned)number("gpus", 1);
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    CHECK();
    if (index >= number("gpus", 1)) return INVALID_ARGUMENT;
    *device = (void *)gpu_ids[index];
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    CHECK();
    for (int i = 0; i < number("gpus", 1); i++) {
        char known[64];
        snprintf(known, sizeof known, "GPU-fake-%d", i);
        if (!strcmp(uuid, known)) {
            *device = (void *)gpu_ids[i];
            return SUCCESS;
        }
    }
    return NOT_FOUND;
}

int nvmlDeviceGetName(void *device, char *text, unsigned size) {
    char key[32];
    snprintf(key, sizeof key, "name%d", index_of(device));
    CHECK();
    if (!find(key, text, size)) snprintf(text, size, "NVIDIA H200");
    return SUCCESS;
}

int nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
    CHECK();
    snprintf(text, size, "GPU-fake-%d", index_of(device));
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(void *device, int kind, unsigned *mhz) {
    (void)kind;
    CHECK();
    unsigned locked = number("ignore_lock", 0) ? 0 : locked_mhz(index_of(device));
    unsigned free_mhz = (unsigned)number("free_mhz", MAX_MHZ), cap_mhz = (unsigned)number("cap_mhz", MAX_MHZ);
    *mhz = locked ? locked : free_mhz;
    if (*mhz > cap_mhz) *mhz = cap_mhz;
    return SUCCESS;
}

int nvmlDeviceGetMaxClockInfo(void *device, int kind, unsigned *mhz) {
    (void)device, (void)kind;
    CHECK();
    *mhz = MAX_MHZ;
    return SUCCESS;
}

int nvmlDeviceGetSupportedMemoryClocks(void *device, unsigned *count, unsigned *mhz) {
    (void)device;
    CHECK();
    unsigned room = *count;
    *count = 2;
    if (!mhz || room < 2) return INSUFFICIENT_SIZE;
    mhz[0] = 3201;
    mhz[1] = 1593;
    return SUCCESS;
}

int nvmlDeviceGetSupportedGraphicsClocks(void *device, unsigned memory_mhz, unsigned *count, unsigned *mhz) {
    (void)device;
    CHECK();
    unsigned room = *count, steps = (MAX_MHZ - MIN_MHZ) / STEP_MHZ + 1;
    if (memory_mhz != 3201) return INVALID_ARGUMENT;
    *count = steps;
    if (!mhz || room < steps) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < steps; i++) mhz[i] = MAX_MHZ - i * STEP_MHZ;
    return SUCCESS;
}

int nvmlDeviceSetGpuLockedClocks(void *device, unsigned low, unsigned high) {
    char path[512];
    (void)high;
    CHECK();
    record("lock", index_of(device), low);
    lock_path(index_of(device), path, sizeof path);
    FILE *file = fopen(path, "w");
    if (!file) return NOT_FOUND;
    fprintf(file, "%u", (unsigned)number("snap_mhz", low));
    fclose(file);
    return SUCCESS;
}

int nvmlDeviceResetGpuLockedClocks(void *device) {
    char path[512];
    CHECK();
    record("reset", index_of(device), 0);
    lock_path(index_of(device), path, sizeof path);
    unlink(path);
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
    (void)device;
    CHECK();
    double tick_s = number("tick_ms", 100) / 1e3, t = since_origin_s();
    t = (double)(long long)(t / tick_s) * tick_s;
    double joules = number("power_mw", 300000) / 1e3 * t + number("ramp_mw_per_s", 0) / 1e3 * t * t / 2;
    *millijoules = (unsigned long long)(joules * 1e3);
    return SUCCESS;
}

struct field_value {
    uint32_t field, scope;
    int64_t timestamp, latency;
    int kind, code;
    union { double d; unsigned u; unsigned long ul; unsigned long long ull; } value;
};

int nvmlDeviceGetFieldValues(void *device, int count, struct field_value *fields) {
    (void)device;
    CHECK();
    for (int i = 0; i < count; i++) {
        unsigned id = fields[i].field;
        fields[i].code = (int)keyed("field_fail.", id, SUCCESS);
        if (id == 186) {
            fields[i].kind = 1;
            fields[i].value.u = (unsigned)number("power_mw", 300000);
        } else {
            fields[i].kind = 3;
            fields[i].value.ull =
                (unsigned long long)(keyed("field_ns.", id, 0) + keyed("field_frac.", id, 0) * since_origin_s() * 1e9);
        }
    }
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
    (void)device;
    CHECK();
    *milliwatts = (unsigned)number("average_power_mw", 290000);
    return SUCCESS;
}

int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *milliwatts) {
    (void)device;
    CHECK();
    *milliwatts = (unsigned)number("limit_mw", 700000);
    return SUCCESS;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) {
    (void)device, (void)sensor;
    CHECK();
    *celsius = (unsigned)number("celsius", 41);
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksEventReasons(void *device, unsigned long long *bits) {
    (void)device;
    CHECK();
    *bits = (unsigned long long)number("reasons", 0);
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *bits) {
    (void)device;
    CHECK();
    *bits = (unsigned long long)number("reasons", 0);
    return SUCCESS;
}

int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    (void)device;
    CHECK();
    *current = *pending = (unsigned)number("mig", 0);
    return SUCCESS;
}

int nvmlDeviceGetVirtualizationMode(void *device, unsigned *mode) {
    (void)device;
    CHECK();
    *mode = (unsigned)number("virtualization", 0);
    return SUCCESS;
}

int nvmlDeviceGetPersistenceMode(void *device, int *mode) {
    (void)device;
    CHECK();
    *mode = (int)number("persistence", 1);
    return SUCCESS;
}

struct memory { unsigned long long total, free, used; };

int nvmlDeviceGetMemoryInfo(void *device, struct memory *memory) {
    (void)device;
    CHECK();
    memory->total = 150754820096ULL;
    memory->used = 1ULL << 29;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

struct process { unsigned pid; unsigned long long used; unsigned instance, compute_instance; };

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, struct process *processes) {
    (void)device;
    CHECK();
    unsigned pid = (unsigned)number("process", 0), room = *count;
    *count = pid ? 1 : 0;
    if (!pid) return SUCCESS;
    if (!processes || room < 1) return INSUFFICIENT_SIZE;
    memset(processes, 0, sizeof *processes);
    processes[0].pid = pid;
    return SUCCESS;
}

int nvmlDeviceGetTotalEccErrors(void *device, int kind, int counter, unsigned long long *count) {
    (void)device, (void)kind, (void)counter;
    CHECK();
    *count = (unsigned long long)number("ecc", 0);
    return SUCCESS;
}

struct pci { char legacy_id[16]; unsigned domain, bus, device, ids, subsystem; char id[32]; };

int nvmlDeviceGetPciInfo_v3(void *device, struct pci *pci) {
    CHECK();
    memset(pci, 0, sizeof *pci);
    snprintf(pci->id, sizeof pci->id, "00000000:%02X:00.0", 0x3B + index_of(device));
    return SUCCESS;
}

#define PCIE(query, key, otherwise)                            \
    int nvmlDeviceGet##query(void *device, unsigned *value) {  \
        (void)device;                                          \
        CHECK();                                               \
        *value = (unsigned)number(key, otherwise);             \
        return SUCCESS;                                        \
    }
PCIE(CurrPcieLinkGeneration, "pcie_gen", 5)
PCIE(MaxPcieLinkGeneration, "pcie_max_gen", 5)
PCIE(CurrPcieLinkWidth, "pcie_width", 16)
PCIE(MaxPcieLinkWidth, "pcie_max_width", 16)

int nvmlDeviceGetNvLinkState(void *device, unsigned link, unsigned *active) {
    char key[32];
    snprintf(key, sizeof key, "nvlinks%d", index_of(device));
    CHECK();
    if (link >= 18) return INVALID_ARGUMENT;
    *active = link < number(key, number("nvlinks", 18));
    return SUCCESS;
}

int nvmlDeviceGetP2PStatus(void *device, void *other, int capability, int *status) {
    (void)device, (void)other, (void)capability;
    CHECK();
    *status = number("nvlinks", 18) > 0 ? 0 : 5;
    return SUCCESS;
}

int nvmlDeviceGetTopologyCommonAncestor(void *device, void *other, int *level) {
    (void)device, (void)other;
    CHECK();
    *level = (int)number("ancestor", 50);
    return SUCCESS;
}
