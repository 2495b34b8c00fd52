# Installation under $(DESTDIR)$(PREFIX).
INSTALL    ?= install
BINDIR     ?= $(PREFIX)/bin
LIBDIR     ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
DATADIR    ?= $(PREFIX)/share
HEADERS    := $(wildcard include/clocher/*.h)
DEMO_FILES := $(wildcard demo/model/*)

# A static link needs the required libraries, and of the optional ones those that src/ uses.
$(B)/clocher.pc: clocher.pc.in $(B)/flags.stamp $(B)/config.mk FORCE
	@sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|' \
	  -e 's|@VERSION@|$(VERSION)|' -e 's|@REQUIRES@|$(strip $(LIBS_REQUIRED) $(filter liburing,$(LIBS_FOUND)))|' $< > $@

.PHONY: install uninstall
install: all $(B)/clocher.pc ## program, libraries, headers, clocher.pc and the demo model under DESTDIR and PREFIX
	$(INSTALL) -d $(addprefix $(DESTDIR),$(BINDIR) $(LIBDIR)/pkgconfig $(INCLUDEDIR)/clocher $(DATADIR)/doc/clocher)
	$(if $(PROGRAM),$(INSTALL) -m 755 $(PROGRAM) $(DESTDIR)$(BINDIR)/clocher)
	$(if $(PROGRAM_NAMES),ln -sf clocher $(DESTDIR)$(BINDIR)/$(notdir $(PROGRAM_NAMES)))
	$(INSTALL) -m 644 $(STATIC_LIB) $(DESTDIR)$(LIBDIR)/libclocher.a
	$(INSTALL) -m 755 $(SHARED_LIB) $(DESTDIR)$(LIBDIR)/libclocher.so.$(VERSION)
	ln -sf libclocher.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libclocher.so.$(SOVERSION)
	ln -sf libclocher.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libclocher.so
	$(INSTALL) -m 644 $(HEADERS) $(DESTDIR)$(INCLUDEDIR)/clocher/
	$(INSTALL) -m 644 $(B)/clocher.pc $(DESTDIR)$(LIBDIR)/pkgconfig/clocher.pc
	$(INSTALL) -m 644 $(wildcard README.md CHANGELOG.md docs/*.md) $(DESTDIR)$(DATADIR)/doc/clocher/
ifneq ($(DEMO_FILES),)
	$(INSTALL) -d $(DESTDIR)$(DATADIR)/clocher/demo-model
	$(INSTALL) -m 644 $(DEMO_FILES) $(DESTDIR)$(DATADIR)/clocher/demo-model/
endif
# The loader finds the library by its cache; a staged installation is the packager's to register.
	@if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" = 0 ]; then PATH="$$PATH:/sbin:/usr/sbin" ldconfig || true; fi

uninstall: ## removes what install put there
	rm -f $(DESTDIR)$(BINDIR)/clocher $(DESTDIR)$(BINDIR)/inference-engine $(DESTDIR)$(LIBDIR)/libclocher.a $(DESTDIR)$(LIBDIR)/libclocher.so*
	rm -f $(DESTDIR)$(LIBDIR)/pkgconfig/clocher.pc
	rm -rf $(DESTDIR)$(INCLUDEDIR)/clocher $(DESTDIR)$(DATADIR)/clocher $(DESTDIR)$(DATADIR)/doc/clocher
