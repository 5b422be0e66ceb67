import { TaskStore } from "@millrace/core"
import { TaskStoreContract } from "@millrace/testing"

TaskStoreContract.suite("memory", TaskStore.layerMemory())
