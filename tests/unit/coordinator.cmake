# Tests of the coordinator's core and store.
if(TARGET coord_core)
  lh_test(test_core SOURCES unit/test_core.c unit/core_rig.c LINK coord_core)
  lh_test(test_core_sim SOURCES unit/test_core_sim.c unit/core_rig.c LINK coord_core)
endif()
