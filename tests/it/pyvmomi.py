"""Drives the simulated vCenter by pyvmomi, which checks each answer against VMware's own tables of types.

Arguments: the port, the user, the password, the SHA-1 thumbprint. What happens besides the API is asked of the test on
stdout, a line each (`do NAME ARGUMENTS`), which answers a line on stdin. The last line names the methods that were called.
"""

import base64
import datetime
import hashlib
import http.client
import json
import ssl
import struct
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib

from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import SoapAdapter, vim, vmodl

PORT, USER, PASSWORD, THUMBPRINT = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
BASE = f"https://127.0.0.1:{PORT}"
COLLECTOR = vmodl.query.PropertyCollector
TLS = ssl._create_unverified_context()
WAIT = 20.0

driven = set()
invoke = SoapAdapter.SoapStubAdapter.InvokeMethod


def recording(stub, target, info, arguments, *others, **named):
    driven.add(info.wsdlName)
    return invoke(stub, target, info, arguments, *others, **named)


SoapAdapter.SoapStubAdapter.InvokeMethod = recording


def do(*words):
    """Lets the test do what no method does."""
    print("do", *words, flush=True)
    answer = sys.stdin.readline().rstrip("\n")
    assert answer.startswith("ok"), f"{words}: {answer}"
    return answer[3:]


def same(found, expected):
    assert found == expected, f"{found!r} is not {expected!r}"


def raises(kind, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except kind as fault:
        return fault
    raise AssertionError(f"{call} raised no {kind}")


def login():
    return SmartConnect(host="127.0.0.1", port=PORT, user=USER, pwd=PASSWORD, thumbprint=THUMBPRINT, sslContext=TLS)


def view_spec(view, kind, paths=None):
    way = COLLECTOR.TraversalSpec(name="v", type=vim.view.ContainerView, path="view", skip=False)
    start = COLLECTOR.ObjectSpec(obj=view, skip=True, selectSet=[way])
    wanted = COLLECTOR.PropertySpec(type=kind, all=paths is None, pathSet=paths or [])
    return COLLECTOR.FilterSpec(propSet=[wanted], objectSet=[start])


def object_spec(objects, kind, paths):
    starts = [COLLECTOR.ObjectSpec(obj=one) for one in objects]
    return COLLECTOR.FilterSpec(propSet=[COLLECTOR.PropertySpec(type=kind, pathSet=paths)], objectSet=starts)


def finished(task):
    """Waits for a task by polling; returns its result or raises its fault."""
    end = time.monotonic() + WAIT
    while task.info.state in ("queued", "running"):
        assert time.monotonic() < end, task.info
        time.sleep(0.02)
    if task.info.state == "error":
        raise task.info.error
    return task.info.result


def until(condition):
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def get(path, headers=None, method="GET"):
    request = urllib.request.Request(BASE + path, headers=headers or {}, method=method)
    with urllib.request.urlopen(request, context=TLS, timeout=WAIT) as response:
        return response.status, dict(response.headers), response.read()


def status_of(path, headers=None):
    return raises(urllib.error.HTTPError, get, path, headers).code


class Driver:
    def __init__(self):
        self.instance = login()
        self.content = self.instance.RetrieveContent()
        self.collector = self.content.propertyCollector
        view = self.view(vim.VirtualMachine)
        self.vms = {vm.name: vm for vm in view.view}
        view.DestroyView()

    def view(self, kind):
        return self.content.viewManager.CreateContainerView(self.content.rootFolder, [kind], True)

    def cookie(self):
        return {"Cookie": self.instance._stub.cookie.split(";")[0]}

    # ---------------------------------------------------------------- sessions

    def sessions(self):
        about = self.content.about
        same((about.apiType, about.apiVersion, about.version), ("VirtualCenter", "8.0.2.0", "8.0.2"))
        assert len(about.instanceUuid) == 36
        drift = self.instance.CurrentTime() - datetime.datetime.now(datetime.timezone.utc)
        assert abs(drift.total_seconds()) < 5, drift
        session = self.content.sessionManager.currentSession
        same(session.userName, USER)
        active = self.content.sessionManager.SessionIsActive
        same(active(session.key, USER), True)
        same(active("52", USER), False)
        raises(vim.fault.InvalidLogin, self.content.sessionManager.Login, USER, PASSWORD)
        raises(vim.fault.InvalidLogin, SmartConnect, host="127.0.0.1", port=PORT, user=USER, pwd="x", sslContext=TLS)
        other = login()
        key = other.content.sessionManager.currentSession.key
        Disconnect(other)
        same(active(key, USER), False)
        raises(vim.fault.NotAuthenticated, other.CurrentTime)
        status, _, versions = get("/sdk/vimServiceVersions.xml")
        same((status, b"urn:vim25" in versions, b"<version>8.0.2.0</version>" in versions), (200, True, True))

    # ---------------------------------------------------------------- inventory

    def inventory(self):
        """Every property of every object passes VMware's tables of types."""
        kinds = {
            vim.VirtualMachine: 14, vim.HostSystem: 3, vim.Datastore: 2, vim.Network: 4, vim.OpaqueNetwork: 1,
            vim.dvs.DistributedVirtualPortgroup: 1, vim.DistributedVirtualSwitch: 1, vim.ClusterComputeResource: 1,
            vim.ComputeResource: 2, vim.ResourcePool: 5, vim.VirtualApp: 1, vim.Folder: 7, vim.Datacenter: 1,
        }
        for kind, count in kinds.items():
            view = self.view(kind)
            found = self.collector.RetrieveProperties([view_spec(view, kind)])
            same((kind, len(found)), (kind, count))
            for one in found:
                for value in one.propSet:
                    assert value.val is not None, value
            view.DestroyView()
        raises(vmodl.fault.ManagedObjectNotFound, lambda: view.view)
        same(self.content.taskManager.maxCollector, 32)
        same([field.name for field in self.content.customFieldsManager.field], ["owner"])
        same(self.instance.capability.multiHostSupported, True)

    def machine(self):
        vm = self.vms["web01"]
        config, summary, runtime, guest = vm.config, vm.summary, vm.runtime, vm.guest
        same((config.name, config.firmware, config.version, config.template), ("web01", "efi", "vmx-19", False))
        same((config.hardware.numCPU, config.hardware.numCoresPerSocket, config.hardware.memoryMB), (4, 2, 2048))
        same((config.bootOptions.efiSecureBootEnabled, config.nestedHVEnabled), (True, True))
        same((config.cpuHotAddEnabled, config.memoryHotAddEnabled, config.cpuHotRemoveEnabled), (True, True, False))
        same(list(config.cpuAffinity.affinitySet), [0, 1])
        same(config.annotation, "the shop's <front> & more")
        same([(one.key, one.value) for one in config.extraConfig], [("guestinfo.role", "front")])
        same((config.changeTrackingEnabled, vm.capability.changeTrackingSupported), (True, True))
        same((len(config.uuid), len(config.instanceUuid), config.ftInfo), (36, 36, None))
        same((summary.config.tpmPresent, summary.config.numVirtualDisks), (True, 3))
        same((runtime.powerState, runtime.connectionState, runtime.consolidationNeeded), ("poweredOn", "connected", False))
        same((runtime.host.name, vm.parent.name, vm.parent.parent.name), ("esx1", "web", "prod"))
        same((guest.toolsRunningStatus, guest.toolsStatus, guest.hostName), ("guestToolsRunning", "toolsOk", "web01.example.org"))
        same((guest.ipAddress, guest.net[0].macAddress, guest.disk[0].diskPath), ("192.0.2.11", "00:50:56:01:02:03", "/"))
        same(guest.ipStack[0].dnsConfig.hostName, "web01.example.org")
        same(sorted(network.name for network in vm.network), ["dmz%2f1", "prod", "segment-1"])
        same([store.name for store in vm.datastore], ["ds1"])
        same([(one.key, one.value) for one in vm.customValue], [(101, "web team")])
        same([one.name for one in vm.availableField], ["owner"])
        same([one.key for one in vm.tag], ["tier-1"])
        same((vm.snapshot, vm.rootSnapshot, vm.recentTask, runtime.question), (None, [], [], None))
        committed = summary.storage.committed
        assert 4 << 20 <= committed <= 9 << 20, committed
        extents = [one for one in vm.layoutEx.file if one.type == "diskExtent"]
        same(len(extents), 3)
        assert sum(one.uniqueSize for one in extents) >= committed, extents
        one = self.read([vm], vim.VirtualMachine, ["config.hardware.device[2000].backing.fileName", "config.ftInfo.role"])
        same([(p.name, p.val) for p in one[0].propSet], [("config.hardware.device[2000].backing.fileName", "[ds1] web01/web01.vmdk")])
        for path in ("config.colour", "config.hardware.device.key", "colour"):
            raises(vmodl.query.InvalidProperty, self.read, [vm], vim.VirtualMachine, [path])
        same(self.vms["stubborn"].config.instanceUuid, None)
        same(self.vms["lost"].config.ftInfo.role, 1)
        same(self.vms["app-a"].guest.toolsStatus, "toolsNotInstalled")
        same((self.vms["app-a"].parentVApp.name, self.vms["web01"].parentVApp), ("app1", None))
        same((self.vms["tmpl"].config.template, self.vms["tmpl"].resourcePool), (True, None))
        same(self.vms["many-00003"].runtime.powerState, "suspended")
        same(self.vms["asking"].runtime.question.text, "Continue without disk?")

    def devices(self):
        devices = {one.key: one for one in self.vms["web01"].config.hardware.device}
        disk = devices[2000]
        same((disk.capacityInBytes, disk.controllerKey, disk.unitNumber), (8 << 20, 1000, 0))
        same(type(disk.backing), vim.vm.device.VirtualDisk.FlatVer2BackingInfo)
        same((disk.backing.thinProvisioned, disk.backing.diskMode, disk.backing.parent), (True, "persistent", None))
        assert "/" in disk.backing.changeId and devices[32000].backing.thinProvisioned is False
        same((devices[2001].backing.diskMode, devices[2001].backing.changeId), ("independent_persistent", None))
        same([type(devices[key]) for key in (1000, 31000, 11000)], [
            vim.vm.device.ParaVirtualSCSIController, vim.vm.device.VirtualNVMEController, vim.vm.device.VirtualTPM])
        same(sorted(devices[1000].device), [2000, 2001])
        nics = [devices[key] for key in (4000, 4001, 4002)]
        same([type(nic) for nic in nics], [
            vim.vm.device.VirtualVmxnet3, vim.vm.device.VirtualSriovEthernetCard, vim.vm.device.VirtualE1000])
        port = nics[0].backing.port
        group = self.named(vim.dvs.DistributedVirtualPortgroup, "prod")
        same((port.portgroupKey, port.switchUuid), (group.key, group.config.distributedVirtualSwitch.uuid))
        same(group.config.defaultPortConfig.vlan.vlanId, 100)
        same((nics[1].backing.opaqueNetworkId, nics[1].backing.opaqueNetworkType), ("0a1b2c3d", "nsx.LogicalSwitch"))
        same((nics[2].backing.deviceName, nics[2].connectable.connected), ("dmz/1", False))
        backings = {one.key: one for one in self.vms["rdm01"].config.hardware.device if isinstance(one, vim.vm.device.VirtualDisk)}
        kinds = vim.vm.device.VirtualDisk
        same([type(backings[key].backing) for key in (2000, 2016, 2032, 3000, 2048)], [
            kinds.RawDiskMappingVer1BackingInfo, kinds.RawDiskMappingVer1BackingInfo, kinds.SeSparseBackingInfo,
            kinds.FlatVer1BackingInfo, kinds.SparseVer2BackingInfo])
        same([backings[key].backing.compatibilityMode for key in (2000, 2016)], ["physicalMode", "virtualMode"])

    def others(self):
        host = self.named(vim.HostSystem, "esx3")
        same((host.config.product.version, host.summary.runtime.inMaintenanceMode), ("7.0.3", False))
        same(host.summary.config.sslThumbprint, THUMBPRINT)
        same((host.summary.hardware.numCpuPkgs, host.summary.hardware.memorySize), (2, 256 << 30))
        same([group.spec.vlanId for group in host.config.network.portgroup], [0, 7])
        same(host.config.virtualNicManagerInfo.netConfig[0].nicType, "management")
        same([vm.name for vm in host.vm][0], "db01")
        same(self.named(vim.HostSystem, "esx2").runtime.inMaintenanceMode, True)
        store = self.named(vim.Datastore, "nfs 1")
        same((store.summary.type, store.summary.freeSpace, store.summary.maintenanceMode), ("NFS", 1 << 40, "inMaintenance"))
        same((type(store.info), len(store.host), store.host[0].mountInfo.accessMode), (vim.host.NasDatastoreInfo, 3, "readWrite"))
        same(type(self.named(vim.Datastore, "ds1").info), vim.host.VmfsDatastoreInfo)
        opaque = self.named(vim.OpaqueNetwork, "segment-1")
        same((opaque.summary.opaqueNetworkType, opaque.summary.opaqueNetworkId), ("nsx.LogicalSwitch", "0a1b2c3d"))
        switch = self.named(vim.DistributedVirtualSwitch, "dvs1")
        same(len(switch.config.host), 3)
        cluster = self.named(vim.ClusterComputeResource, "cluster1")
        same((cluster.configuration.dasConfig.enabled, cluster.configuration.drsConfig.enabled), (True, True))
        same(([one.name for one in cluster.host], cluster.summary.numHosts), (["esx1", "esx2"], 2))
        same([one.name for one in cluster.resourcePool.resourcePool], ["gold", "app1"])
        center = self.named(vim.Datacenter, "DC1")
        same((center.vmFolder.name, center.hostFolder.name), ("vm", "host"))
        same(sorted(one.name for one in center.datastore), ["ds1", "nfs 1"])

    def named(self, kind, name):
        view = self.view(kind)
        found = [one for one in view.view if one.name == name]
        view.DestroyView()
        same(len(found), 1)
        return found[0]

    def read(self, objects, kind, paths):
        return self.collector.RetrieveProperties([object_spec(objects, kind, paths)])

    def traversal(self):
        """The whole tree by named traversals, as clients without views read it."""
        way, named = COLLECTOR.TraversalSpec, COLLECTOR.SelectionSpec
        folder = way(name="folder", type=vim.Folder, path="childEntity", selectSet=[
            named(name="folder"), named(name="compute"),
            *[way(name=path, type=vim.Datacenter, path=path, selectSet=[named(name="folder")])
              for path in ("vmFolder", "hostFolder", "networkFolder", "datastoreFolder")],
            way(name="compute", type=vim.ComputeResource, path="host"),
            way(name="pools", type=vim.ComputeResource, path="resourcePool", selectSet=[named(name="pool")]),
            way(name="pool", type=vim.ResourcePool, path="resourcePool", selectSet=[named(name="pool")]),
        ])
        start = COLLECTOR.ObjectSpec(obj=self.content.rootFolder, skip=False, selectSet=[folder])
        kinds = [vim.Folder, vim.Datacenter, vim.HostSystem, vim.VirtualMachine, vim.Network, vim.Datastore, vim.ResourcePool]
        spec = COLLECTOR.FilterSpec(propSet=[COLLECTOR.PropertySpec(type=kind, pathSet=["name"]) for kind in kinds], objectSet=[start])
        names = [one.propSet[0].val for one in self.collector.RetrieveProperties([spec]) if one.propSet]
        for name in ("Datacenters", "prod", "esx2", "web01", "many-00002", "dmz%2f1", "nfs 1", "nested", "app1"):
            assert name in names, (name, names)
        same(len(names), len({one.obj for one in self.collector.RetrieveProperties([spec])}) - 1)

    def pages(self):
        view = self.view(vim.VirtualMachine)
        spec, seen, tokens = view_spec(view, vim.VirtualMachine, ["name"]), [], []
        result = self.collector.RetrievePropertiesEx([spec], COLLECTOR.RetrieveOptions(maxObjects=4))
        while True:
            assert len(result.objects) <= 4
            seen += [one.obj for one in result.objects]
            if not result.token:
                break
            tokens.append(result.token)
            result = self.collector.ContinueRetrievePropertiesEx(result.token)
        same((len(seen), len(set(seen)), len(tokens)), (14, 14, 3))
        raises(vmodl.fault.InvalidArgument, self.collector.ContinueRetrievePropertiesEx, tokens[0])
        result = self.collector.RetrievePropertiesEx([spec], COLLECTOR.RetrieveOptions())
        same(len(result.objects), 5)
        self.collector.CancelRetrievePropertiesEx(result.token)
        raises(vmodl.fault.InvalidArgument, self.collector.ContinueRetrievePropertiesEx, result.token)
        nothing = view_spec(self.view(vim.Task), vim.Task, ["info"])
        same(self.collector.RetrievePropertiesEx([nothing], COLLECTOR.RetrieveOptions()), None)

    def search(self):
        index, vm = self.content.searchIndex, self.vms["web01"]
        same(index.FindByUuid(None, vm.config.uuid, True, False), vm)
        same(index.FindByUuid(self.named(vim.Datacenter, "DC1"), vm.config.instanceUuid, True, True), vm)
        same(index.FindByUuid(None, vm.config.uuid, True, True), None)
        same(index.FindByInventoryPath("DC1/vm/prod/web/web01"), vm)
        same(index.FindByInventoryPath("DC1/vm/prod/web/web02"), None)
        same(index.FindByInventoryPath("DC1/host/cluster1/esx1").name, "esx1")

    def privileges(self):
        manager = self.content.authorizationManager
        key = self.content.sessionManager.currentSession.key
        known = [one.privId for one in manager.privilegeList]
        assert "VirtualMachine.Interact.PowerOn" in known
        vms = [self.vms["web01"], self.vms["forbidden"]]
        found = manager.HasPrivilegeOnEntities(vms, key, ["VirtualMachine.Interact.PowerOn", "System.Read"])
        same([[one.isGranted for one in entity.privAvailability] for entity in found], [[True, True], [False, True]])
        raises(vmodl.fault.InvalidArgument, manager.HasPrivilegeOnEntities, vms, key, ["No.Such"])
        found = manager.FetchUserPrivilegeOnEntities(vms, USER)
        same(["VirtualMachine.Interact.PowerOn" in one.privileges for one in found], [True, False])
        fault = raises(vim.fault.NoPermission, self.vms["forbidden"].PowerOn)
        same((fault.object, fault.privilegeId), (self.vms["forbidden"], "VirtualMachine.Interact.PowerOn"))
        missing = self.read([self.vms["hidden"]], vim.VirtualMachine, ["name", "config.uuid"])[0].missingSet
        same([(one.path, type(one.fault)) for one in missing], [
            ("name", vim.fault.NoPermission), ("config.uuid", vim.fault.NoPermission)])

    # ---------------------------------------------------------------- files

    def files(self):
        vm, where = self.vms["web01"], "dcPath=DC1&dsName=ds1"
        flat = f"/folder/web01/web01-flat.vmdk?{where}"
        same(status_of(flat), 401)
        truth = open(do("file", "web01", 2000), "rb").read()
        status, headers, body = get(flat, self.cookie())
        same((status, int(headers["content-length"]), body == truth), (200, 8 << 20, True))
        status, headers, body = get(flat, {**self.cookie(), "Range": "bytes=65536-131071"})
        same((status, headers["content-range"], body == truth[65536:131072]), (206, "bytes 65536-131071/8388608", True))
        status, headers, body = get(flat, self.cookie(), "HEAD")
        same((status, headers["content-length"], headers["accept-ranges"], body), (200, "8388608", "bytes", b""))
        descriptor = get(f"/folder/web01/web01.vmdk?{where}", self.cookie())[2].decode()
        assert 'RW 16384 VMFS "web01-flat.vmdk"' in descriptor, descriptor
        basic = {"Authorization": "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
        status, headers, _ = get(flat, basic, "HEAD")
        assert headers["set-cookie"].startswith("vmware_soap_session="), headers
        same(status_of(flat, {"Authorization": "Basic " + base64.b64encode(b"a:b").decode()}), 401)
        same(status_of(f"/folder/web01/web02-flat.vmdk?{where}", self.cookie()), 404)
        same(status_of("/folder/web01/web01-flat.vmdk?dcPath=DC1&dsName=ds2", self.cookie()), 404)
        for store in ("nfs%201", "nfs+1", "nfs%25201"):
            same(get(f"/folder/db01/db01-flat.vmdk?dcPath=DC1&dsName={store}", self.cookie(), "HEAD")[0], 200)
        # db01 has two snapshots: its base is the state at the first, its head no flat file.
        devices = {one.key: one for one in self.vms["db01"].config.hardware.device}
        same(devices[2000].backing.fileName, "[nfs 1] db01/db01-000002.vmdk")
        same(devices[2000].backing.parent.parent.fileName, "[nfs 1] db01/db01.vmdk")
        same(status_of("/folder/db01/db01-000002-flat.vmdk?dcPath=DC1&dsName=nfs%201", self.cookie()), 404)
        descriptor = get("/folder/db01/db01-000002.vmdk?dcPath=DC1&dsName=nfs%201", self.cookie())[2].decode()
        assert 'parentFileNameHint="db01-000001.vmdk"' in descriptor, descriptor
        same(vm.config.files.vmPathName, "[ds1] web01/web01.vmx")
        spec = vim.SessionManager.HttpServiceRequestSpec(method="httpGet", url=f"https://esx1{flat}")
        ticket = self.content.sessionManager.AcquireGenericServiceTicket(spec)
        same(ticket.sslThumbprint, THUMBPRINT)
        same(get(flat, {"Cookie": f"vmware_cgi_ticket={ticket.id}"})[0], 200)
        same(status_of(flat, {"Cookie": f"vmware_cgi_ticket={ticket.id}"}), 401)

    # ---------------------------------------------------------------- power, reconfigure, events

    def power(self):
        vm, began = self.vms["web01"], self.instance.CurrentTime()
        raises(vim.fault.InvalidPowerState, vm.PowerOn)
        vm.ShutdownGuest()
        until(lambda: vm.runtime.powerState == "poweredOff")
        same((vm.runtime.cleanPowerOff, vm.guest.toolsRunningStatus), (True, "guestToolsNotRunning"))
        fault = raises(vim.fault.InvalidPowerState, vm.ShutdownGuest)
        same((fault.requestedState, fault.existingState), ("poweredOff", "poweredOff"))
        raises(vim.fault.InvalidPowerState, vm.PowerOff)
        task = vm.PowerOn()
        raises(vim.fault.TaskInProgress, vm.CreateSnapshot, "x", "", False, False)
        same(vm.recentTask[-1], task)
        same(finished(task), None)
        same((task.info.descriptionId, task.info.name.info.wsdlName, task.info.entityName), ("VirtualMachine.powerOn", "PowerOnVM_Task", "web01"))
        same((type(task.info.reason), task.info.cancelable), (vim.TaskReasonUser, False))
        raises(vim.fault.InvalidState, task.CancelTask)
        same(finished(vm.PowerOff()), None)
        same(vm.runtime.cleanPowerOff, False)
        same(finished(vm.PowerOn()), None)
        raises(vim.fault.ToolsUnavailable, self.vms["app-a"].ShutdownGuest)
        self.vms["stubborn"].ShutdownGuest()
        same(self.vms["stubborn"].runtime.powerState, "poweredOn")
        raises(vim.fault.InvalidState, self.vms["lost"].PowerOff)
        raises(vmodl.fault.NotSupported, self.vms["tmpl"].PowerOn)
        task = self.vms["asking"].PowerOn()
        until(lambda: task.info.state == "running")
        do("answer", "asking")
        same(finished(task), None)
        self.events(vm, began)
        do("advance", 4)
        same(self.gone(task), True)

    def gone(self, task):
        try:
            task.info
            return False
        except vmodl.fault.ManagedObjectNotFound:
            return True

    def events(self, vm, began):
        spec = vim.event.EventFilterSpec
        by = spec.ByEntity(entity=vm, recursion="self")
        kinds = ["vim.event.VmPoweredOnEvent", "VmPoweredOffEvent"]
        found = self.content.eventManager.QueryEvents(spec(entity=by, time=spec.ByTime(beginTime=began), eventTypeId=kinds))
        on, off = vim.event.VmPoweredOnEvent, vim.event.VmPoweredOffEvent
        same([type(one) for one in found], [off, on, off, on])
        same((found[0].vm.vm, found[0].vm.name, found[0].datacenter.name), (vm, "web01", "DC1"))
        same((found[0].host.name, found[0].computeResource.name, found[0].userName), ("esx1", "cluster1", USER))
        last = found[-1].createdTime
        found = self.content.eventManager.QueryEvents(spec(entity=by, time=spec.ByTime(beginTime=last), eventTypeId=kinds))
        same([type(one) for one in found], [on])
        whole = spec.ByEntity(entity=self.content.rootFolder, recursion="all")
        newest = self.content.eventManager.QueryEvents(spec(entity=whole, maxCount=1))
        same((type(newest[0]), newest[0].vm.name), (on, "asking"))

    def reconfigure(self):
        vm, option = self.vms["app-a"], vim.option.OptionValue
        version = vm.config.changeVersion
        spec = vim.vm.ConfigSpec(changeVersion=version, extraConfig=[option(key="ferry.claim", value="{\"a\": 1}")])
        same(finished(vm.Reconfigure(spec)), None)
        same([(one.key, one.value) for one in vm.config.extraConfig], [("ferry.claim", "{\"a\": 1}")])
        assert vm.config.changeVersion != version
        raises(vim.fault.ConcurrentAccess, finished, vm.Reconfigure(spec))
        spec = vim.vm.ConfigSpec(annotation="moved", extraConfig=[option(key="ferry.claim", value="")])
        finished(vm.Reconfigure(spec))
        same((vm.config.annotation, vm.config.extraConfig), ("moved", []))
        raises(vmodl.fault.InvalidRequest, vm.Reconfigure, vim.vm.ConfigSpec(numCPUs=2))
        vm = self.vms["web01"]
        nic = [one for one in vm.config.hardware.device if one.key == 4000][0]
        nic.connectable.connected = False
        edit = vim.vm.device.VirtualDeviceSpec(operation="edit", device=nic)
        finished(vm.Reconfigure(vim.vm.ConfigSpec(deviceChange=[edit])))
        same([one.connectable.connected for one in vm.config.hardware.device if one.key == 4000], [False])

    # ---------------------------------------------------------------- snapshots and change tracking

    def disk(self, of, key=2000):
        return [one for one in of.config.hardware.device if one.key == key][0]

    def snapshot(self, vm, name):
        return finished(vm.CreateSnapshot(name, "by the test", False, True))

    def snapshots(self):
        vm = self.vms["web01"]
        first = self.snapshot(vm, "one")
        tree = vm.snapshot.rootSnapshotList[0]
        same((vm.snapshot.currentSnapshot, tree.snapshot, tree.name, tree.description), (first, first, "one", "by the test"))
        same((tree.quiesced, tree.state, tree.vm, first.vm), (True, "poweredOn", vm, vm))
        same(self.disk(first).backing.fileName, "[ds1] web01/web01.vmdk")
        same(self.disk(vm).backing.fileName, "[ds1] web01/web01-000001.vmdk")
        same(self.disk(vm).backing.parent.fileName, "[ds1] web01/web01.vmdk")
        same(self.disk(vm, 2001).backing.fileName, "[ds1] web01/web01_2.vmdk")
        old = open(do("file", "web01", 2000), "rb").read()
        do("write", "web01", 2000, 65536, "new content".encode().hex())
        flat = get("/folder/web01/web01-flat.vmdk?dcPath=DC1&dsName=ds1", self.cookie())[2]
        same((flat == old, open(do("file", "web01", 2000), "rb").read()[65536:65539]), (True, b"new"))
        frozen = [one for one in json.load(open(do("disks")))["disks"] if one["snapshot"] == first._moId and one["key"] == 2000]
        same(frozen[0]["path"], "[ds1] web01/web01.vmdk")
        second = self.snapshot(vm, "two")
        same((first.childSnapshot, vm.rootSnapshot), ([second], [first]))
        finished(first.RemoveSnapshot_Task(False))
        same(self.disk(second).backing.fileName, "[ds1] web01/web01.vmdk")
        raises(vmodl.fault.ManagedObjectNotFound, lambda: first.config)
        self.areas(vm, second)
        raises(vim.fault.TooManySnapshotLevels, lambda: [self.snapshot(vm, str(name)) for name in range(3)])
        finished(second.RemoveSnapshot_Task(True))
        same((vm.snapshot, self.disk(vm).backing.parent, vm.runtime.consolidationNeeded), (None, None, False))
        same(self.disk(vm).backing.fileName, "[ds1] web01/web01.vmdk")
        last = self.snapshot(vm, "three")
        finished(last.RemoveSnapshot_Task(False, True))
        same((vm.snapshot, vm.runtime.consolidationNeeded), (None, True))
        assert self.disk(vm).backing.parent is not None
        finished(vm.ConsolidateVMDisks_Task())
        same((vm.runtime.consolidationNeeded, self.disk(vm).backing.parent), (False, None))
        canceled = vm.CreateSnapshot("no", "", False, False)
        canceled.CancelTask()
        raises(vmodl.fault.RequestCanceled, finished, canceled)
        same(canceled.info.cancelled, True)

    def changed(self, vm, snapshot, change_id, key=2000):
        """All areas, over all windows."""
        areas, at, windows = [], 0, 0
        while at < self.disk(snapshot or vm, key).capacityInBytes:
            info = vm.QueryChangedDiskAreas(snapshot, key, at, change_id)
            assert info.startOffset == at and info.length > 0 and len(info.changedArea) <= 2
            areas += [(one.start, one.length) for one in info.changedArea]
            at, windows = at + info.length, windows + 1
        return areas, windows

    def areas(self, vm, before):
        block, since = 65536, self.disk(before).backing.changeId
        for at in (0, 5, 6, 20, 22, 127):
            do("write", "web01", 2000, at * block + 7, "ff")
        now = self.snapshot(vm, "now")
        same(self.changed(vm, now, since), ([(0, block), (5 * block, 2 * block), (20 * block, block), (22 * block, block), (127 * block, block)], 3))
        same(self.changed(vm, now, self.disk(now).backing.changeId), ([], 1))
        tracking, sequence = since.rsplit("/", 1)
        same(self.disk(now).backing.changeId.rsplit("/", 1), [tracking, str(int(sequence) + 1)])
        truth = open(do("file", "web01", 2000), "rb").read()
        allocated, _ = self.changed(vm, now, "*")
        covered = bytearray(len(truth))
        for start, length in allocated:
            covered[start:start + length] = truth[start:start + length]
        same(bytes(covered) == truth and sum(length for _, length in allocated) < len(truth), True)
        raises(vmodl.fault.InvalidArgument, vm.QueryChangedDiskAreas, now, 2000, 8 << 20, since)
        raises(vmodl.fault.InvalidArgument, vm.QueryChangedDiskAreas, now, 2999, 0, since)
        raises(vmodl.fault.InvalidArgument, vm.QueryChangedDiskAreas, None, 2000, 0, since)
        raises(vim.fault.FileFault, vm.QueryChangedDiskAreas, now, 2001, 0, since)
        do("crash", "web01")
        raises(vim.fault.FileFault, vm.QueryChangedDiskAreas, now, 2000, 0, since)
        finished(now.RemoveSnapshot_Task(False))

    def tracking(self):
        """It begins where the VM stands still for a moment, not with the flag."""
        vm = self.vms["app-a"]
        finished(vm.Reconfigure(vim.vm.ConfigSpec(changeTrackingEnabled=True)))
        same((vm.config.changeTrackingEnabled, self.disk(vm).backing.changeId), (True, None))
        first = self.snapshot(vm, "throw-away")
        same(self.disk(first).backing.changeId, None)
        finished(first.RemoveSnapshot_Task(False))
        real = self.snapshot(vm, "real")
        assert self.disk(real).backing.changeId
        finished(real.RemoveSnapshot_Task(False))
        finished(vm.PowerOff())
        do("write", "app-a", 2000, 0, "01")
        areas = vm.QueryChangedDiskAreas(None, 2000, 0, self.disk(vm).backing.changeId).changedArea
        same([(one.start, one.length) for one in areas], [(0, 65536)])
        finished(vm.PowerOn())

    # ---------------------------------------------------------------- leases

    def ready(self, lease):
        same(lease.info if lease.state == "initializing" else None, None)
        until(lambda: lease.state == "ready")
        return lease.info

    def leases(self):
        vm = self.vms["db01"]
        raises(vim.fault.InvalidPowerState, self.vms["web01"].ExportVm)
        lease = vm.ExportVm()
        info = self.ready(lease)
        same((info.entity, info.lease, info.leaseTimeout, info.totalDiskCapacityInKB), (vm, lease, 60, 5 << 10))
        same([url.disk for url in info.deviceUrl], [True, True, False])
        raises(vim.fault.TaskInProgress, vm.PowerOn)
        hashes = {}
        for url in info.deviceUrl:
            assert url.url.startswith("https://*/nfc/") and url.sslThumbprint == THUMBPRINT, url
            _, headers, body = get(url.url.removeprefix("https://*"))
            hashes[url.key] = (hashlib.sha1(body).hexdigest(), hashlib.sha256(body).hexdigest(), len(body))
            if url.disk:
                same(headers["content-type"], "application/x-vnd.vmware-streamVmdk")
                key = 2000 if "Lsi" in url.key else 16000
                assert unpacked(body) == open(do("file", "db01", key), "rb").read(), url
            lease.HttpNfcLeaseProgress(50)
        same(lease.transferProgress, 50)
        manifest = lease.HttpNfcLeaseGetManifest()
        same({one.key: (one.sha1, one.checksum, one.size) for one in manifest}, hashes)
        same([one.capacity for one in manifest], [3 << 20, 2 << 20, None])
        lease.HttpNfcLeaseComplete()
        same(lease.state, "done")
        raises(vim.fault.InvalidState, lease.HttpNfcLeaseComplete)
        same(status_of(info.deviceUrl[0].url.removeprefix("https://*")), 404)

        web = self.vms["web01"]
        snapshot = self.snapshot(web, "export")
        truth = open(do("file", "web01", 2000), "rb").read()
        do("write", "web01", 2000, 0, "aa" * 512)
        lease = snapshot.ExportSnapshot()
        info = self.ready(lease)
        same(unpacked(get(info.deviceUrl[0].url.removeprefix("https://*"))[2]) == truth, True)
        lease.HttpNfcLeaseAbort()
        same((lease.state, type(lease.error)), ("error", vmodl.fault.RequestCanceled))
        finished(snapshot.RemoveSnapshot_Task(False))

        lease = vm.ExportVm()
        info = self.ready(lease)
        for _ in range(3):
            do("advance", 40)
            lease.HttpNfcLeaseProgress(0)
        do("advance", 61)
        same((lease.state, type(lease.error)), ("error", vim.fault.Timedout))
        raises(vim.fault.Timedout, lease.HttpNfcLeaseProgress, 1)
        same(finished(vm.PowerOn()), None)

    # ---------------------------------------------------------------- updates

    def updates(self):
        collector = self.collector.CreatePropertyCollector()
        view = self.view(vim.VirtualMachine)
        made = collector.CreateFilter(view_spec(view, vim.VirtualMachine, ["name", "runtime.powerState", "snapshot"]), False)
        options = COLLECTOR.WaitOptions(maxWaitSeconds=0)
        seen, version, pages = {}, "", 0
        while True:
            answer = collector.WaitForUpdatesEx(version, options)
            version, pages = answer.version, pages + 1
            for update in answer.filterSet[0].objectSet:
                same((update.kind, len(seen) < 14), ("enter", True))
                seen[update.obj] = {change.name: change.val for change in update.changeSet}
            if not answer.truncated:
                break
        same((len(seen), pages), (14, 5))
        same(answer.filterSet[0].filter, made)
        same(seen[self.vms["web01"]], {"name": "web01", "runtime.powerState": "poweredOn"})
        same(collector.WaitForUpdatesEx(version, options), None)
        do("off", "web01")
        changed = collector.WaitForUpdatesEx(version, options)
        told = [(one.kind, one.obj, [(c.name, c.op, c.val) for c in one.changeSet]) for one in changed.filterSet[0].objectSet]
        same(told, [("modify", self.vms["web01"], [("runtime.powerState", "assign", "poweredOff")])])
        # The answer was lost: the same version again tells the same, and what came after.
        do("rename", "stubborn", "obeying")
        again = collector.WaitForUpdatesEx(version, options)
        same(len(again.filterSet[0].objectSet), 2)
        raises(vmodl.query.InvalidCollectorVersion, collector.WaitForUpdatesEx, "77", options)
        version = again.version
        do("rename", "obeying", "stubborn")
        do("on", "web01")
        version = collector.WaitForUpdatesEx(version, options).version
        snapshot = self.snapshot(self.vms["web01"], "seen")
        answer = collector.WaitForUpdatesEx(version, options)
        same(answer.filterSet[0].objectSet[0].changeSet[0].val.currentSnapshot, snapshot)
        finished(snapshot.RemoveSnapshot_Task(False))
        answer = collector.WaitForUpdatesEx(answer.version, options)
        same([(one.name, one.op, one.val) for one in answer.filterSet[0].objectSet[0].changeSet], [("snapshot", "assign", None)])
        do("remove", "many-00003")
        answer = collector.WaitForUpdatesEx(answer.version, options)
        same([(one.kind, one.obj) for one in answer.filterSet[0].objectSet], [("leave", self.vms["many-00003"])])
        self.waiting(collector, answer.version)
        made.DestroyPropertyFilter()
        raises(vmodl.fault.ManagedObjectNotFound, made.DestroyPropertyFilter)
        collector.DestroyPropertyCollector()
        raises(vmodl.fault.ManagedObjectNotFound, collector.WaitForUpdatesEx, "", options)
        self.watched_task()

    def waiting(self, collector, version):
        """A wait ends by a change, by its end, or by who cancels it."""
        wait = lambda seconds, out: out.append(outcome(
            lambda: collector.WaitForUpdatesEx(version, COLLECTOR.WaitOptions(maxWaitSeconds=seconds))))
        for end, expected in [
            (lambda: collector.CancelWaitForUpdates(), vmodl.fault.RequestCanceled),
            (lambda: None, type(None)),
            (lambda: do("relocate", "web01", "esx2") or do("off", "web01"), COLLECTOR.UpdateSet),
        ]:
            out = []
            thread = threading.Thread(target=wait, args=(1 if expected is type(None) else 30, out))
            thread.start()
            time.sleep(0.3)
            same(out, [])
            end()
            thread.join(WAIT)
            same([type(one) for one in out], [expected])
        do("on", "web01")

    def watched_task(self):
        task = self.vms["stubborn"].PowerOff()
        made = self.collector.CreateFilter(object_spec([task], vim.Task, ["info"]), False)
        version, states = "", []
        while not states or states[-1] not in ("success", "error"):
            answer = self.collector.WaitForUpdatesEx(version, COLLECTOR.WaitOptions(maxWaitSeconds=10))
            version = answer.version
            states += [change.val.state for one in answer.filterSet[0].objectSet for change in one.changeSet]
        same(states[-1], "success")
        do("advance", 4)
        same(self.gone(task), True)
        answer = self.collector.WaitForUpdatesEx(version, COLLECTOR.WaitOptions(maxWaitSeconds=10))
        same([one.kind for one in answer.filterSet[0].objectSet], ["leave"])
        made.DestroyPropertyFilter()

    # ---------------------------------------------------------------- faults

    def faults(self):
        clock = self.instance.CurrentTime
        do("arm", "{ method: CurrentTime, call: 2, fault: HostCommunication }")
        clock()
        raises(vmodl.fault.HostCommunication, clock)
        clock()
        vm = self.vms["web01"]
        do("arm", "{ method: PowerOffVM_Task, call: 1, task: FileFault }")
        raises(vim.fault.FileFault, finished, vm.PowerOff())
        do("arm", "{ method: RetrieveProperties, call: 1, delay: 300ms }")
        began = time.monotonic()
        same((self.read([vm], vim.VirtualMachine, ["name"])[0].propSet[0].val, time.monotonic() - began > 0.3), ("web01", True))
        do("arm", "{ method: RetrieveProperties, call: 1, missing: SystemError }")
        missing = self.read([vm], vim.VirtualMachine, ["name"])[0].missingSet
        same([(one.path, type(one.fault)) for one in missing], [("name", vmodl.fault.SystemError)])
        do("arm", "{ method: GET /folder, call: 1, truncate: 1000 }")
        flat = "/folder/web01/web01-flat.vmdk?dcPath=DC1&dsName=ds1"
        raises(Exception, get, flat, self.cookie())
        do("arm", "{ method: GET /folder, call: 1, status: 503 }")
        same(status_of(flat, self.cookie()), 503)
        same(get(flat, self.cookie())[0], 200)
        # pyvmomi repeats a call whose connection broke, so what was cut and what was done are told apart by the world.
        quiet = login()
        for effect, state in (("cut", "poweredOn"), ("lostReply", "poweredOff")):
            do("arm", f"{{ method: PowerOffVM_Task, {effect}: true }}")
            raises((OSError, http.client.HTTPException), vim.VirtualMachine(vm._moId, quiet._stub).PowerOff)
            do("disarm")
            until(lambda: vm.runtime.powerState == state and not self.busy(vm))
        finished(vm.PowerOn())

    def busy(self, vm):
        return any(task.info.state in ("queued", "running") for task in vm.recentTask)

    def unknown(self):
        fault = raises(vmodl.fault.MethodNotFound, self.vms["web01"].Suspend)
        same((fault.receiver, fault.method), (self.vms["web01"], "SuspendVM_Task"))
        raises(vmodl.fault.MethodNotFound, self.content.viewManager.CreateListView, None)

    def expiry(self):
        do("advance", 29 * 60)
        self.instance.CurrentTime()
        do("advance", 29 * 60)
        self.instance.CurrentTime()
        do("advance", 31 * 60)
        raises(vim.fault.NotAuthenticated, self.instance.CurrentTime)
        missing = self.read([self.vms["web01"]], vim.VirtualMachine, ["name"])[0].missingSet
        same([(one.path, type(one.fault)) for one in missing], [("name", vim.fault.NotAuthenticated)])
        same(status_of("/folder/web01/web01-flat.vmdk?dcPath=DC1&dsName=ds1", self.cookie()), 401)


def outcome(call):
    try:
        return call()
    except Exception as fault:
        return fault


def unpacked(body):
    """Reads a stream-optimized VMDK as its footer and tables say, and as its markers say: both must be one disk."""
    fields = struct.Struct("<4sIIQQQQIQQQB4sH")
    magic, version, flags, capacity, grain, _, _, entries, _, place, overhead, _, test, method = fields.unpack(body[:fields.size])
    same((magic, version, flags, grain, entries, place, test, method), (b"KDMV", 3, 0x30001, 128, 512, 2**64 - 1, b"\n \r\n", 1))
    by_marker, tables, at = bytearray(capacity * 512), {}, overhead * 512
    while True:
        sector, size, kind = struct.unpack("<QII", body[at:at + 16])
        if size:
            content = zlib.decompress(body[at + 12:at + 12 + size])
            by_marker[sector * 512:sector * 512 + len(content)] = content
            at += (12 + size + 511) // 512 * 512
        elif kind == 0:
            break
        else:
            tables[kind] = at + 512
            at += (1 + sector) * 512
    same((at + 512, sorted(tables) in ([1, 2, 3], [2, 3])), (len(body), True))
    footer = fields.unpack(body[-1024:-1024 + fields.size])
    same((footer[0], footer[9] * 512, tables[3]), (b"KDMV", tables[2], len(body) - 1024))
    by_table = bytearray(capacity * 512)
    for group in range((capacity + grain * entries - 1) // (grain * entries)):
        table, = struct.unpack_from("<I", body, tables[2] + 4 * group)
        for entry in range(entries if table else 0):
            stored, = struct.unpack_from("<I", body, table * 512 + 4 * entry)
            if stored:
                sector, size = struct.unpack_from("<QI", body, stored * 512)
                same(sector, (group * entries + entry) * grain)
                content = zlib.decompress(body[stored * 512 + 12:stored * 512 + 12 + size])
                by_table[sector * 512:sector * 512 + len(content)] = content
    same(by_table == by_marker, True)
    return bytes(by_marker)


def main():
    driver = Driver()
    for part in ("sessions", "inventory", "machine", "devices", "others", "traversal", "pages", "search", "privileges",
                 "files", "power", "reconfigure", "snapshots", "tracking", "leases", "updates", "faults", "unknown", "expiry"):
        print("part", part, flush=True)
        getattr(driver, part)()
    print("driven", *sorted(driven), flush=True)


main()
