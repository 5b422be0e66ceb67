import { EffectWorkflows } from "@millrace/workflow"
import { suite } from "./suite.ts"
import { implementations } from "./workflows.ts"

suite("Effect in memory", EffectWorkflows.layerMemory(...implementations), { prefix: "", races: 1000 })
