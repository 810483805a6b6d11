/* A libcuda.so.1 whose devices stand in the environment.
 *
 *   FAKE_CUDA          UUIDs, 32 hexadecimal digits each, with a comma between them
 *   FAKE_CUDA_PARENTS  the same from the first version of the function that gives UUIDs
 *   FAKE_CUDA_CODES    function=code pairs: what functions return instead of 0
 *   FAKE_CUDA_SLEEP_S  seconds that cuInit takes
 *   FAKE_CUDA_LOG      file to which each cuInit adds its process id and a newline
 *
 * With OLD defined it is a library without the second version of that function.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int code_of(const char *function) {
    const char *codes = getenv("FAKE_CUDA_CODES");
    const char *found = codes ? strstr(codes, function) : NULL;
    return found && found[strlen(function)] == '=' ? atoi(found + strlen(function) + 1) : 0;
}

static int uuid_of(const char *variable, unsigned char *uuid, int device) {
    const char *digits = getenv(variable);
    if (!digits) return 101;
    digits += 33 * device;
    for (int i = 0; i < 16; i++)
        if (sscanf(digits + 2 * i, "%2hhx", &uuid[i]) != 1) return 101;
    return 0;
}

int cuInit(unsigned flags) {
    const char *path = getenv("FAKE_CUDA_LOG"), *seconds = getenv("FAKE_CUDA_SLEEP_S");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) {
        fprintf(file, "%d\n", (int)getpid());
        fclose(file);
    }
    if (seconds) sleep(atoi(seconds));
    return flags ? 1 : code_of(__func__);
}

int cuDeviceGetCount(int *count) {
    const char *uuids = getenv("FAKE_CUDA");
    *count = uuids ? (strlen(uuids) + 1) / 33 : 0;
    return code_of(__func__);
}

/* Devices are no ordinals. */
int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal + 70;
    return code_of(__func__);
}

int cuDeviceGetUuid(unsigned char *uuid, int device) {
    return uuid_of("FAKE_CUDA_PARENTS", uuid, device - 70);
}

#ifndef OLD
int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
    int code = code_of(__func__);
    return code ? code : uuid_of("FAKE_CUDA", uuid, device - 70);
}
#endif
