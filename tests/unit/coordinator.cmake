# Tests of the coordinator's core and store.
if(TARGET coord_core)
  lh_test(test_core SOURCES unit/test_core.c unit/core_rig.c LINK coord_core)
  lh_test(test_core_sim SOURCES unit/test_core_sim.c unit/core_rig.c LINK coord_core)
endif()
if(TARGET coord_store)
  lh_test(test_lock SOURCES unit/test_lock.c LINK coord_store)
  target_link_options(test_lock PRIVATE -Wl,--wrap=statfs)
endif()
