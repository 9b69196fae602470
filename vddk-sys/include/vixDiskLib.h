/*
 * The part of VMware's Virtual Disk Development Kit that reads disks, declared from public facts: nothing of VMware's headers is
 * in here. C, System V x86-64, natural alignment.
 *
 * An error's code is its low 16 bits; 0 is success. Offsets and lengths are sectors of 512 bytes.
 */
#ifndef FERRY_VIX_DISK_LIB_H
#define FERRY_VIX_DISK_LIB_H

/* What <stdarg.h> and <stdint.h> say, so that libclang alone reads this. */
typedef __builtin_va_list va_list;
typedef unsigned char uint8_t;
typedef unsigned int uint32_t;
typedef unsigned long uint64_t;

typedef uint64_t VixError;
typedef uint64_t VixDiskLibSectorType;

/* ReadAsync took the request: its result comes to the callback. */
#define VIX_ASYNC 25000
#define VIXDISKLIB_SECTOR_SIZE 512
/* The smallest chunk of an allocation query, in sectors, and the most chunks of one query. */
#define VIXDISKLIB_MIN_CHUNK_SIZE 128
#define VIXDISKLIB_MAX_CHUNK_NUMBER (512 * 1024)

/* Open's flags. */
#define VIXDISKLIB_FLAG_OPEN_UNBUFFERED 1
#define VIXDISKLIB_FLAG_OPEN_SINGLE_LINK 2
#define VIXDISKLIB_FLAG_OPEN_READ_ONLY 4

typedef enum {
    VIXDISKLIB_CRED_UID = 1,
    VIXDISKLIB_CRED_SESSIONID = 2,
    VIXDISKLIB_CRED_TICKETID = 3,
    VIXDISKLIB_CRED_SSPI = 4,
    VIXDISKLIB_CRED_UNKNOWN = 256
} VixDiskLibCredType;

typedef enum {
    VIXDISKLIB_SPEC_VMX = 0,
    VIXDISKLIB_SPEC_VSTORAGE_OBJECT = 1,
    VIXDISKLIB_SPEC_UNKNOWN = 2
} VixDiskLibSpecType;

typedef enum {
    VIXDISKLIB_ADAPTER_IDE = 1,
    VIXDISKLIB_ADAPTER_SCSI_BUSLOGIC = 2,
    VIXDISKLIB_ADAPTER_SCSI_LSILOGIC = 3,
    VIXDISKLIB_ADAPTER_UNKNOWN = 256
} VixDiskLibAdapterType;

typedef struct {
    char *userName;
    char *password;
} VixDiskLibUidPasswdCreds;

/* A session of the vSphere API: the value of its cookie, its user, and the password. */
typedef struct {
    char *cookie;
    char *userName;
    char *key;
} VixDiskLibSessionIdCreds;

typedef union {
    VixDiskLibUidPasswdCreds uid;
    VixDiskLibSessionIdCreds sessionId;
    void *ticketId;
} VixDiskLibCreds;

typedef struct {
    char *id;
    char *datastoreMoRef;
    char *ssId;
} VixDiskLibVStorageObjectSpec;

typedef union {
    VixDiskLibVStorageObjectSpec vStorageObjSpec;
} VixDiskLibSpec;

/* The form of 6.7 and later. 6.5 ends before `state`, older ones before `vimApiVer`. */
typedef struct {
    /* Which VM: `moref=vm-123`. */
    char *vmxSpec;
    char *serverName;
    /* SHA-1 of the server's certificate: pairs of hexadecimal digits, joined by colons. */
    char *thumbPrint;
    long reserved;
    VixDiskLibCredType credType;
    VixDiskLibCreds creds;
    /* 0 is 443. */
    uint32_t port;
    /* 0 is 902. */
    uint32_t nfcHostPort;
    char *vimApiVer;
    char reserved2[8];
    void *state;
    VixDiskLibSpec spec;
    VixDiskLibSpecType specType;
} VixDiskLibConnectParams;

typedef struct {
    uint32_t cylinders;
    uint32_t heads;
    uint32_t sectors;
} VixDiskLibGeometry;

typedef struct {
    VixDiskLibGeometry biosGeo;
    VixDiskLibGeometry physGeo;
    VixDiskLibSectorType capacity;
    VixDiskLibAdapterType adapterType;
    int numLinks;
    char *parentFileNameHint;
    char *uuid;
    /* These two are there from version 7 on; before it the allocation ends here. */
    uint32_t logicalSectorSize;
    uint32_t physicalSectorSize;
} VixDiskLibInfo;

typedef struct {
    VixDiskLibSectorType offset;
    VixDiskLibSectorType length;
} VixDiskLibBlock;

typedef struct {
    uint32_t numBlocks;
    /* As many as `numBlocks` says. */
    VixDiskLibBlock blocks[1];
} VixDiskLibBlockList;

struct VixDiskLibConnectionTag;
typedef struct VixDiskLibConnectionTag *VixDiskLibConnection;
struct VixDiskLibHandleTag;
typedef struct VixDiskLibHandleTag *VixDiskLibHandle;

/* Called on the library's threads from InitEx on. */
typedef void (*VixDiskLibGenericLogFunc)(const char *format, va_list arguments);
/* Called once for each request that ReadAsync took, on any thread, perhaps before ReadAsync returns. */
typedef void (*VixDiskLibCompletionCB)(void *data, VixError result);

/* Once a process. `libDir` holds `lib64`; without a configuration file the machine's are looked at. */
VixError VixDiskLib_InitEx(uint32_t majorVersion, uint32_t minorVersion, VixDiskLibGenericLogFunc log,
                           VixDiskLibGenericLogFunc warn, VixDiskLibGenericLogFunc panic,
                           const char *libDir, const char *configFile);
void VixDiskLib_Exit(void);
/* `locale` is null. The answer may be null, and is freed by FreeErrorText. */
char *VixDiskLib_GetErrorText(VixError error, const char *locale);
void VixDiskLib_FreeErrorText(char *text);

/* From 6.7 on. What it returns is freed by FreeConnectParams. */
VixDiskLibConnectParams *VixDiskLib_AllocateConnectParams(void);
void VixDiskLib_FreeConnectParams(VixDiskLibConnectParams *parameters);
VixError VixDiskLib_ConnectEx(const VixDiskLibConnectParams *parameters, char readOnly,
                              const char *snapshotRef, const char *transportModes,
                              VixDiskLibConnection *connection);
VixError VixDiskLib_Disconnect(VixDiskLibConnection connection);

VixError VixDiskLib_Open(VixDiskLibConnection connection, const char *path, uint32_t flags,
                         VixDiskLibHandle *handle);
VixError VixDiskLib_Close(VixDiskLibHandle handle);
/* A static text. */
const char *VixDiskLib_GetTransportMode(VixDiskLibHandle handle);
VixError VixDiskLib_GetInfo(VixDiskLibHandle handle, VixDiskLibInfo **info);
void VixDiskLib_FreeInfo(VixDiskLibInfo *info);

VixError VixDiskLib_Read(VixDiskLibHandle handle, VixDiskLibSectorType start,
                         VixDiskLibSectorType count, uint8_t *buffer);
VixError VixDiskLib_ReadAsync(VixDiskLibHandle handle, VixDiskLibSectorType start,
                              VixDiskLibSectorType count, uint8_t *buffer,
                              VixDiskLibCompletionCB callback, void *data);
/* Returns when every request of the handle is answered. */
VixError VixDiskLib_Wait(VixDiskLibHandle handle);

/* From 6.7 on. `start` and `count` are multiples of `chunk`. The blocks ascend; what is between them is not allocated. */
VixError VixDiskLib_QueryAllocatedBlocks(VixDiskLibHandle handle, VixDiskLibSectorType start,
                                         VixDiskLibSectorType count, VixDiskLibSectorType chunk,
                                         VixDiskLibBlockList **list);
VixError VixDiskLib_FreeBlockList(VixDiskLibBlockList *list);

#endif
